"""Loads models and checks their weights: transformers fills missing ones at random and ignores unexpected ones.

model = load_student("my/folder", config.student, dtype=torch.bfloat16, attn_implementation="sdpa")
model = load_student("my/folder", config.student, device_map="meta")     # the same check without reading weights
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapir_ray.config import Student
from tapir_ray.data.storage import is_remote
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.run.model_store import local
from tapir_ray.train.model_files import file_problems, has_weights, named

OF_NO_USE = re.compile(r"(rotary_emb\.inv_freq|\.masked_bias|\.attn\.bias|position_ids|num_batches_tracked)$")
"""Buffers that old checkpoints contain and that models compute today."""


def load_student(model: str, student: Student, **options: Any) -> Any:
    """A causal language model from a folder, URI or HF name, with every weight read from its files.

    `options` are those of `from_pretrained`. Raises InputError, with names, for files or weights that are missing,
    truncated, unexpected or of another shape.
    """
    from transformers import AutoModelForCausalLM

    refuse_files(model, "student.model")
    with _quiet(), _told(model, "student.model"):
        loaded, found = _both(
            AutoModelForCausalLM,
            local(model),
            revision=student.revision if model == student.model else None,
            trust_remote_code=student.trust_remote_code,
            **options,
        )
    refuse_weights(found, model, "student.model")
    return loaded


def load_classifier(model: str, key: str, new_head: bool, **options: Any) -> Any:
    """A sequence classification model, with every weight read from its files.

    With `new_head`, for a model to fine-tune, only the weights of its body must be in the files; others are ignored.
    Raises InputError as `load_student` does.
    """
    from transformers import AutoModelForSequenceClassification

    refuse_files(model, key)
    with _quiet(), _told(model, key):
        loaded, found = _both(AutoModelForSequenceClassification, local(model), **options)
    body = f"{loaded.base_model_prefix}."
    if new_head:
        found = {
            # Poolers do not count: a body has one or not, depending on the task it was trained for.
            kind: [entry for entry in found[kind] if _name(entry).startswith(body) and ".pooler." not in _name(entry)]
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        }
        advice = ""
    else:
        advice = "; set classify.label_rows to fine-tune it, or name one that is fine-tuned"
    refuse_weights(found, model, key, advice)
    return loaded


def is_here(model: str, key: str, revision: str | None = None) -> bool:
    """Returns whether a model is a folder, a URI, or a hub name with a copy of its weights on this machine.

    Raises InputError for the path of a folder that does not exist.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if is_remote(model):
        local(model)
        return True
    if Path(model).exists():
        return True
    if Path(model).is_absolute() or model.startswith((".", "~")):
        raise InputError(f"{key} {model} is not a folder: correct the path")
    try:
        return has_weights(Path(snapshot_download(model, revision=revision, local_files_only=True)))
    except (HFValidationError, LocalEntryNotFoundError):
        return False


def refuse_files(model: str, key: str) -> None:
    """Raises InputError for a model folder with a file that is missing, truncated or a pointer of Git LFS."""
    folder = Path(local(model))
    if folder.is_dir() and (problems := file_problems(folder)):
        raise InputError(f"{key} {model}: {'; '.join(problems)}")


def refuse_weights(found: dict[str, Any], model: str, key: str, advice: str = "") -> None:
    """Raises InputError for weights that are missing, unexpected or of another shape.

    `found` is the `output_loading_info` of `from_pretrained`.
    """
    missing, unexpected = sorted(found["missing_keys"]), _used(found["unexpected_keys"])
    problems = []
    if missing:
        problems.append(f"{_weights(missing)} not in its files and would be random")
    if unexpected:
        problems.append(f"{_weights(unexpected)} in its files and not in a model of its config, so left out")
    if mismatched := sorted(found["mismatched_keys"], key=_name):
        name, there, wanted = mismatched[0]
        more = f" (and {len(mismatched) - 1} more weights)" if mismatched[1:] else ""
        problems.append(f"{name} has the shape {list(there)} in its files and {list(wanted)} by its config{more}")
    if problems:
        raise InputError(
            f"{key} {model}: {'; '.join(problems)}: correct its config.json, or save model and config together with "
            f"save_pretrained{advice}"
        )


def refuse_sizes(tokenizer: Any, loaded: Any, model: str, key: str = "student.model") -> None:
    """Raises InputError for a tokenizer with ids beyond the model's embedding."""
    weight = loaded.get_input_embeddings().weight
    # A weight that ZeRO-3 has partitioned is empty; DeepSpeed keeps its shape in `ds_shape`.
    rows = getattr(weight, "ds_shape", weight.shape)[0]
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise InputError(
            f"{key} {model}: its tokenizer has {largest + 1} tokens (the last is {token!r}) and its embedding {rows} "
            f"rows: resize it by model.resize_token_embeddings({largest + 1}) and save both, or take the tokenizer "
            "that belongs to the model"
        )


def _both(kind: Any, model: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """(model, loading info of its weights)."""
    from transformers.utils.logging import disable_progress_bar

    # Every load is part of a larger command, which has its own progress.
    disable_progress_bar()
    # Mismatched sizes are ignored here, so that `refuse_weights` can list all faults in one message.
    loaded, found = kind.from_pretrained(model, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    return loaded, found


def _used(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not OF_NO_USE.search(name))


def _weights(names: list[str]) -> str:
    return f"{len(names)} weights ({named(names)}) are" if len(names) > 1 else f"the weight {names[0]} is"


def _name(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(entry[0])


@contextmanager
def _told(model: str, key: str) -> Iterator[None]:
    """Context manager: turns the errors of transformers for a model that it cannot load into InputError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"{key} {model} cannot be loaded ({type(error).__name__}: {one_line(error)[:300]}); correct "
            "its files, or name another model"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager: suppresses transformers' table of missing weights, which `refuse_weights` reports."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
