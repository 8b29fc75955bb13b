"""Trainings in worker processes without Ray, which stay alive for the next training.

    with Pool(workers=2, folder=tmp_path) as pool:
        losses = pool.train(work, out_dir)

Ray Train adds 15 to 25 s to a training (start, checkpoints, replaced workers); test_student.py tests it.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import pyarrow.fs as pafs
import torch
from torch import distributed

from tapir_ray.config import Student, Train
from tapir_ray.train import loop
from tapir_ray.train.checkpoint import Done
from tapir_ray.train.engine import export, make_engine
from tapir_ray.train.work import Work

CPU = torch.device("cpu")


def work_of(model: str, packed: str, train: Train, learning_rate: float, base_model: str | None = None) -> Work:
    """Returns a training of one epoch of a packed table, from the model in a folder or the adapter in it (of
    `base_model`)."""
    return Work(
        packed_dir=packed,
        holdout_dir=None,
        storage_dir="",
        fs=pafs.LocalFileSystem(),
        init_model=model,
        base_model=base_model,
        student=Student(model=model),
        train=train,
        learning_rate=learning_rate,
        epochs=1,
        random_seed=0,
        progress=None,
    )


class Pool:
    """Workers of one gloo group: DeepSpeed keeps the first group of a process."""

    def __init__(self, workers: int, folder: Path) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._stack = ExitStack()
        self._workers = [
            self._stack.enter_context(
                ProcessPoolExecutor(1, spawn, initializer=_join, initargs=(rank, workers, f"{folder}/group"))
            )
            for rank in range(workers)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def train(self, work: Work, out_dir: str) -> list[float]:
        """Trains and returns the loss of each step; the student is written to `out_dir`."""
        Path(out_dir).mkdir()
        started = [worker.submit(_train, work, out_dir) for worker in self._workers]
        losses, *_ = [future.result(timeout=300) for future in started]
        return losses


def _join(rank: int, workers: int, group: str) -> None:
    torch.set_num_threads(1)
    # DeepSpeed and transformers read these variables; Ray Train sets them otherwise.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    # A worker whose peer has failed waits for it that long.
    patience = timedelta(seconds=60)
    distributed.init_process_group("gloo", f"file://{group}", patience, world_size=workers, rank=rank)


def _train(work: Work, out_dir: str) -> list[float]:
    engine: Any = make_engine(work, CPU)
    result = loop._train(engine, CPU, work, Done())
    export(engine, work, out_dir, first=distributed.get_rank() == 0)
    return list(result["losses"])
