"""Low-rank adapters (peft): trained instead of the weights, and merged into them at the export of the student.

    check_target_modules(student, config.train.lora, init_model)             # in the driver
    model = with_adapter(model, config.train.lora, earlier="runs/x/checkpoints/01/adapter")
    adapter = merged(engine)                                                 # engine.module is a plain model again
    save_adapter(adapter, "runs/x/checkpoints/02", base_model="runs/x/checkpoints/base")

A student's folder has merged weights, so code that loads it need not know about adapters. If the next round continues
the adapter, it is also stored in the sub-folder `FOLDER`, in peft's format, with the name of its base.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_ray.config import Lora, Student
from tapir_ray.errors import InputError
from tapir_ray.train.model_config import read_config, skeleton

FOLDER = "adapter"
"""Sub-folder of a student's folder with the adapter that is merged into its weights."""


@dataclass(frozen=True)
class Adapter:
    """An adapter without its model: `weights` by peft's names on rank 0, empty on other ranks."""

    config: Any
    weights: dict[str, Any]


def check_target_modules(student: Student, lora: Lora, model: str | None) -> None:
    """Raises InputError, which lists the possible names, if `target_modules` names no linear module of `model`.

    `model` is a folder, URI or HF name, of which only the config is read; None is the model of `student.create`.
    """
    from transformers import LlamaConfig

    if lora.target_modules == "all-linear":
        return
    config = LlamaConfig(num_hidden_layers=1) if model is None else read_config(student, model)
    there = _linear_modules(skeleton(config, student))
    missing = [name for name in lora.target_modules if not any(f".{path}".endswith(f".{name}") for path in there)]
    if missing:
        raise InputError(
            f"train.lora.target_modules: {model or 'the created student'} has no linear module {', '.join(missing)}; "
            f"name some of {', '.join(sorted({path.rpartition('.')[2] for path in there}))}, or set all-linear"
        )


def with_adapter(model: Any, lora: Lora, earlier: str | None = None) -> Any:
    """The model with a new adapter, or with the one in the folder `earlier`; only the adapter's weights are trainable.

    A new adapter does not change the outputs yet. Call it after turning gradient checkpointing on, which needs inputs
    that require gradients: peft arranges that.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    # The adapter keeps the dtype of its base: for bfloat16, DeepSpeed has float32 copies of all trainable weights.
    if earlier is not None:
        return PeftModel.from_pretrained(model, earlier, is_trainable=True, autocast_adapter_dtype=False)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def merged(engine: Any) -> Adapter:
    """Merges the adapter into the weights and sets `engine.module` to the plain model; returns the adapter.

    A collective call: ZeRO-3 gathers one layer at a time on every rank and partitions it again. The engine cannot train
    afterwards.
    """
    import deepspeed
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = engine.module
    in_pieces, first = engine.zero_optimization_partition_weights(), engine.global_rank == 0
    layers: dict[str, Any] = {name: part for name, part in model.named_modules() if isinstance(part, BaseTunerLayer)}
    weights: dict[str, Any] = {}
    for name, layer in layers.items():
        with deepspeed.zero.GatheredParameters(list(layer.parameters()), modifier_rank=0, enabled=in_pieces):
            if first:
                own = layer.state_dict(prefix=f"{name}.")
                weights.update({key: value.cpu().clone() for key, value in own.items() if ".lora_" in key})
            layer.merge()
    config = model.peft_config["default"]
    adapter = Adapter(config, get_peft_model_state_dict(model, weights, save_embedding_layers=False))
    engine.module = model.unload()
    return adapter


def save_adapter(adapter: Adapter, student_folder: str, base_model: str) -> None:
    """Writes the adapter to `FOLDER` in a student's folder, with `base_model` (folder, URI or HF name) as its base."""
    from safetensors.torch import save_file

    folder = Path(student_folder) / FOLDER
    folder.mkdir()
    adapter.config.base_model_name_or_path = base_model
    adapter.config.save_pretrained(str(folder))
    save_file({key: value.contiguous() for key, value in adapter.weights.items()}, folder / "adapter_model.safetensors")


def _linear_modules(model: Any) -> list[str]:
    """Names of the modules that `all-linear` selects: all linear ones but the output layer."""
    import torch
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
    ]
