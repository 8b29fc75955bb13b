"""Input of the workers of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs

from tapir_ray.config import Student, Train


@dataclass(frozen=True)
class Work:
    """Input of one training, the same for every worker."""

    packed_dir: str
    holdout_dir: str | None
    """Packed holdout whose loss is evaluated during the training."""
    storage_dir: str
    """Folder of this training alone."""
    fs: pafs.FileSystem
    init_model: str
    base_model: str | None
    """Base of the adapter in `init_model` that is continued. None: no adapter, or a new one on `init_model`."""
    student: Student
    train: Train
    learning_rate: float
    epochs: int
    random_seed: int
    progress: Any
    """Actor with a method `put(dict)` for progress messages, or None."""
    schedule_part: int = 1
    """Part of the learning-rate schedule that this training covers, from 1. It warms up in its first part alone."""
    schedule_parts: int = 1
    """Equal parts of the schedule; 1: the training has a schedule of its own."""
