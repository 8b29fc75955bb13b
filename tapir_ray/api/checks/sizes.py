"""Size of the student by its config alone: numbers of weights and of values in the KV cache."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from tapir_ray.config import Config, Lora, Student
from tapir_ray.train.create_student import model_config
from tapir_ray.train.model_config import read_config, skeleton
from tapir_ray.train.weights import is_here

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelSize:
    """Size of a decoder."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    kv_values: int
    """Numbers in the KV cache for each token."""
    dtype: str
    """Of the weights in its files."""
    linear: tuple[tuple[str, int, int], ...] = ()
    """(name, inputs, outputs) of the linear modules that an adapter can have."""

    def trained(self, lora: Lora | None) -> int:
        """Returns the number of trained weights: all, or those of the adapter."""
        if lora is None:
            return self.parameters
        wanted = lora.target_modules
        chosen = [
            (inputs, outputs)
            for name, inputs, outputs in self.linear
            if wanted == "all-linear" or any(f".{name}".endswith(f".{one}") for one in wanted)
        ]
        return sum(lora.rank * (inputs + outputs) for inputs, outputs in chosen)


def model_size(config: Config) -> ModelSize | None:
    """Returns the size of the student; None if its config is not on this machine."""
    return _size(config.student.model_dump_json())


@functools.lru_cache(maxsize=2)
def _size(student_json: str) -> ModelSize | None:
    student = Student.model_validate_json(student_json)
    if student.create is not None:
        return _of(model_config(student.create, student.create.vocab_size, {}), student)
    if student.model is None or not is_here(student.model, "student.model", student.revision):
        return None
    return _of(read_config(student, student.model), student)


def _of(config: Any, student: Student) -> ModelSize:
    import torch

    model, text = skeleton(config, student), config.get_text_config()
    output, heads = model.get_output_embeddings(), text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return ModelSize(
        parameters=sum(weight.numel() for weight in model.parameters()),  # tied weights count once
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        kv_values=2 * text.num_hidden_layers * kv_heads * head_size,
        dtype=str(getattr(config, "dtype", None) or torch.float32).removeprefix("torch."),
        linear=tuple(
            (name, part.in_features, part.out_features)
            for name, part in model.named_modules()
            if isinstance(part, torch.nn.Linear) and part is not output
        ),
    )
