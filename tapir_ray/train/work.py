"""One training, as its workers are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from tapir_ray.config import Student, Train


@dataclass(frozen=True)
class Work:
    """What every worker is told."""

    packed_dir: str
    holdout_dir: str | None
    """The packed holdout, whose loss is watched."""
    storage_dir: str
    """Of this training alone."""
    fs: pafs.FileSystem
    init_model: str
    base_model: str | None
    """The model under the adapter of `init_model` that goes on; None trains `init_model` itself, or begins on it."""
    student: Student
    train: Train
    learning_rate: float
    epochs: int
    random_seed: int
    progress: Any
    """Actor with `put(dict)`, or None."""
