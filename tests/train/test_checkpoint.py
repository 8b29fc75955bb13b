"""Checkpoints: saved by minutes or by steps, and which of them are kept; without Ray and DeepSpeed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch
from ray.train import Checkpoint
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport
from torch import distributed

from tapir_ray.config import Resources, Student, Train
from tapir_ray.data.schemas import PACKED, conform
from tapir_ray.train import loop, student
from tapir_ray.train.checkpoint import Done
from tapir_ray.train.work import Work

FS = pafs.LocalFileSystem()
STEPS, GLOBAL_BATCH = 12, 2


@pytest.fixture
def packed(tmp_path: Path) -> str:
    folder = tmp_path / "packed"
    folder.mkdir()
    tokens = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "position_ids": [0, 1, 2]}
    rows = [{"seq_index": i, "pair_ids": [str(i)], **tokens} for i in range(STEPS * GLOBAL_BATCH)]
    pq.write_table(conform(rows, PACKED), folder / "packed-000-000000.parquet")
    return str(folder)


@pytest.fixture
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def trained(
    monkeypatch: pytest.MonkeyPatch, packed: str, minutes_a_step: float, **settings: Any
) -> tuple[Done, list[int]]:
    """Returns the end of a training of 12 steps of `minutes_a_step` each by a simulated clock, and the steps it
    saved."""
    clock = SimpleNamespace(now=1e9)
    saved: list[int] = []

    class Engine:
        optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
        skipped_steps = 0

        def backward(self, loss: torch.Tensor) -> None: ...

        def step(self) -> None:
            clock.now += 60 * minutes_a_step

    monkeypatch.setattr(loop, "time", SimpleNamespace(time=lambda: clock.now, monotonic=lambda: clock.now))
    monkeypatch.setattr(loop, "response_loss", lambda engine, batch: torch.ones((), dtype=torch.float64))
    monkeypatch.setattr(loop, "pair_losses", lambda *_: {"a pair": (4.0, 2)})
    monkeypatch.setattr(loop, "check_kept_apart", lambda *_: None)
    monkeypatch.setattr(loop, "save", lambda engine, done: saved.append(len(done.losses)))
    done = Done()
    work = Work(
        packed_dir=packed,
        holdout_dir=packed,
        storage_dir="",
        fs=FS,
        init_model="",
        base_model=None,
        student=Student(model="m"),
        train=Train(global_batch_size=GLOBAL_BATCH, **settings),
        learning_rate=1e-3,
        epochs=1,
        random_seed=0,
        progress=None,
    )
    loop._train(Engine(), torch.device("cpu"), work, done)
    assert len(done.losses) == STEPS
    return done, saved


@pytest.mark.parametrize(
    ("minutes_a_step", "settings", "saved"),
    [
        (4.0, {"checkpoint_minutes": 10.0}, [4, 8]),
        (11.0, {"checkpoint_minutes": 10.0}, [2, 4, 6, 8, 10]),
        (0.5, {"checkpoint_minutes": 10.0}, []),
        (4.0, {"checkpoint_minutes": 10.0, "checkpoint_steps": 5}, [5, 10]),
        (4.0, {"checkpoint_minutes": 1000.0, "checkpoint_steps": 4}, [4, 8]),
    ],
)
def test_a_checkpoint_is_saved_once_its_minutes_or_steps_are_over(
    one_process: None,
    monkeypatch: pytest.MonkeyPatch,
    packed: str,
    minutes_a_step: float,
    settings: dict[str, Any],
    saved: list[int],
) -> None:
    """It follows the step in which they are over. The last step needs no checkpoint, since the student is written."""
    done, found = trained(monkeypatch, packed, minutes_a_step, **settings)
    assert found == saved
    assert done.holdout_losses == [[step, 2.0] for step in [0, *saved, STEPS]]


def kept(monkeypatch: pytest.MonkeyPatch, folder: Path, packed: str, holdout: str | None) -> list[int]:
    """Returns the steps of the checkpoints kept of five, whose losses on the holdout rise except for the second."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(student, "trainer_class", lambda: lambda *_, **settings: given.update(settings))
    monkeypatch.setattr(student, "_backend", lambda gpus: "gloo")

    class Built(Exception):
        pass

    def fit(*_: Any) -> None:
        raise Built

    monkeypatch.setattr(student, "_fit", fit)
    with pytest.raises(Built):
        student.train_student(
            packed, FS, "m", str(folder / "out"), str(folder / "ray_train"), "name", Student(model="m"),
            Train(checkpoints_kept=2), Resources(), 1, 1e-3, 0, holdout_dir=holdout,
        )  # fmt: skip
    config = given["run_config"]
    storage = StorageContext(config.storage_path, config.name, config.storage_filesystem)
    own = Path(storage.experiment_fs_path)

    async def register() -> None:
        manager = CheckpointManager(config.checkpoint_config, storage)
        for step, loss in enumerate([3.0, 1.0, 4.0, 5.0, 6.0], start=1):
            place = own / f"checkpoint_{step}"
            place.mkdir()
            done = Done(losses=[0.0] * step, holdout_losses=[[step, loss]] if holdout else [])
            manager.register_checkpoint(_TrainingReport(Checkpoint(str(place), FS), done.metrics(), validation=False))

    asyncio.run(register())
    return sorted(int(place.name.rpartition("_")[2]) for place in own.glob("checkpoint_*") if place.is_dir())


def test_the_lowest_losses_on_the_holdout_are_kept_with_the_latest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: str
) -> None:
    assert kept(monkeypatch, tmp_path, packed, holdout=packed) == [1, 2, 5]


def test_without_a_holdout_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: str) -> None:
    assert kept(monkeypatch, tmp_path, packed, holdout=None) == [4, 5]
