"""Checks, by its `config.json`, that a model can be trained and can answer as the run's config asks.

check_model(config.student, config.train, "my/folder")      # before a run begins: reads no weights
check_trained(student, train, "Qwen/…")                     # on a worker that trains it
"""

from __future__ import annotations

from typing import Any

from tapir_ray.config import Student, Train
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.run.model_store import local

UNSCALED = ("default", "longrope", "llama3")
"""Kinds of rotary positions whose `max_position_embeddings` already includes their scaling."""


def check_model(student: Student, train: Train, model: str) -> None:
    """Raises InputError, which says what to set, if `model` fails `check_trained` or `check_length`."""
    check_trained(student, train, model)
    check_length(student, model)


def check_length(student: Student, model: str) -> None:
    """Raises InputError, which says what to set, if `model` reads less than `max_model_len`.

    `model` is a folder, URI or HF name. Lengths of scaled rotary positions are left to the engine, which checks them at
    its start.
    """
    text = read_config(student, model).get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    if student.spec.local and longest is not None and student.max_model_len > longest and not _is_scaled(text):
        raise InputError(
            f"student.max_model_len {student.max_model_len} is above the {longest} tokens that {model} reads: set it "
            f"to {longest} or less, and train.sequence_length too"
        )


def check_trained(student: Student, train: Train, model: str) -> None:
    """Raises InputError, which says what to set, if `model` cannot be trained as the config asks.

    Reasons: it is quantised; its attention caps logits, which sdpa leaves out, so that it would be trained as another
    function than it is served; its table of positions is shorter than `train.sequence_length`. Computed positions, as
    rotary ones, have no such limit.
    """
    config = read_config(student, model)
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        method = (
            quantised.get("quant_method") if isinstance(quantised, dict) else getattr(quantised, "quant_method", "")
        )
        raise InputError(
            f"student.model {model} is quantised ({method or 'quantization_config in its config.json'}) and cannot be "
            "trained: name the model with full weights that it was made from"
        )
    text = config.get_text_config()
    cap = getattr(text, "attn_logit_softcapping", None)
    if cap is not None and train.attention == "sdpa":
        raise InputError(
            f"{model} caps its attention's logits (attn_logit_softcapping {cap:g}), which train.attention sdpa leaves "
            "out: set train.attention eager, or flash_attention_2 on GPUs"
        )
    longest = getattr(text, "max_position_embeddings", None)
    if longest is None or train.sequence_length <= longest:
        return
    if _has_table(skeleton(config, student), longest):
        raise InputError(
            f"train.sequence_length {train.sequence_length} is above the {longest} positions that {model} has: set it "
            f"to {longest} or less"
        )


def read_config(student: Student, model: str) -> Any:
    """The transformers config of `model`. Raises InputError if it has none that transformers knows."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            local(model),
            revision=student.revision if model == student.model else None,
            trust_remote_code=student.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"student.model: no config could be read from {model}; the folder needs a config.json that transformers "
            f"knows ({one_line(error)[:200]})"
        ) from error


def skeleton(config: Any, student: Student) -> Any:
    """A model with a transformers config and without weights, on the `meta` device."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=student.trust_remote_code)


def _is_scaled(text: Any) -> bool:
    """Returns whether scaling lets the rotary positions of any layers exceed `max_position_embeddings`."""
    # Either the parameters themselves, or those of each kind of layer by name.
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    return any(kind.get("rope_type", "default") not in UNSCALED for kind in kinds)


def _has_table(model: Any, positions: int) -> bool:
    """Returns whether a model looks its positions up in a table: a weight (GPT-2, OPT) or a buffer (GPT-J)."""
    words = model.get_input_embeddings()
    tables = [
        tensor
        for module in model.modules()
        if module is not words  # the vocabulary may be as large as the number of positions
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if name == "embed_positions" or "Embedding" in type(module).__name__
    ]
    # OPT's table has two rows more than positions.
    return any(tensor.dim() == 2 and positions <= len(tensor) <= positions + 2 for tensor in tables)
