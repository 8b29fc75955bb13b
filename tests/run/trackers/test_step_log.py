"""Losses per step reach the trackers once, also if a training is continued, repeated or replaced by another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import parse
from tapir_ray.run.run import Run
from tapir_ray.run.trackers import Events
from tapir_ray.run.trackers.step_log import StepLog, recorded, step_log


@pytest.fixture
def run(tmp_path: Path) -> Run:
    teacher = {"base_url": "http://127.0.0.1:9/v1", "model": "t", "api_key_env": None}
    config = {"name": "logged", "student": {"model": "m"}, "seed_data": {"path": "a.jsonl"}, "teacher": teacher}
    return Run.open(parse(config), str(tmp_path / "run"))


def message(first: int, *losses: float, held: tuple[tuple[int, float], ...] = ()) -> dict[str, Any]:
    steps = [{"step": first + n, "loss": loss, "learning_rate": 1e-4} for n, loss in enumerate(losses)]
    return {"new_steps": steps, "holdout_losses": [list(pair) for pair in held]}


def log_of(run: Run, kind: str = "train", training: str = "round-01-a", round_number: int = 1) -> StepLog:
    return StepLog(run, Events(run), kind, training, round_number)


def curve(run: Run, kind: str = "train", name: str = "loss") -> list[tuple[int, float]]:
    return [(line["run_step"], line[name]) for line in recorded(run) if line["kind"] == kind and name in line]


def test_a_continued_training_repeats_no_step(run: Run) -> None:
    """It was killed after step 3, and its last checkpoint is after step 1."""
    with step_log(run, Events(run), "train", "round-01-a", 1) as log:
        log.add(message(0, 5.0, 4.0, 3.0, held=((0, 6.0),)))
    with step_log(run, Events(run), "train", "round-01-a", 1) as log:
        log.add(message(1, 4.0, 3.0, 2.0, held=((0, 6.0), (2, 3.5))))
        log.complete([5.0, 4.0, 3.0, 2.0], [(0, 6.0), (2, 3.5), (4, 1.5)])
    assert curve(run) == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0)]
    assert curve(run, name="holdout_loss") == [(0, 6.0), (2, 3.5), (4, 1.5)]


def test_lost_messages_are_made_up_for_at_the_end(run: Run) -> None:
    log = log_of(run)
    log.add(message(0, 5.0))
    log.complete([5.0, 4.0, 3.0], [])
    assert curve(run) == [(0, 5.0), (1, 4.0), (2, 3.0)]


def test_the_steps_of_later_trainings_follow_those_before(run: Run) -> None:
    log_of(run, training="round-00-a", round_number=0).complete([5.0, 4.0], [])
    log_of(run).complete([3.0, 2.0], [])
    log_of(run, "control", "control-01-a").complete([3.0], [])
    log_of(run, training="round-01-b").complete([3.5, 2.5], [])  # trained again on other data, after a retry
    assert curve(run) == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0), (4, 3.5), (5, 2.5)]
    assert curve(run, "control") == [(0, 3.0)]


def test_an_error_loses_no_step(run: Run) -> None:
    with pytest.raises(RuntimeError), step_log(run, Events(run), "train", "round-01-a", 1) as log:
        log.add(message(0, 5.0))
        raise RuntimeError("diverged")
    assert curve(run) == [(0, 5.0)]


def test_a_torn_line_is_left_out(run: Run) -> None:
    log_of(run).complete([5.0], [])
    run.write_text("metrics.jsonl", run.read_text("metrics.jsonl") + '{"kind": "train", "ro')
    assert curve(run) == [(0, 5.0)]
    log_of(run).complete([5.0, 4.0], [])
    assert curve(run) == [(0, 5.0), (1, 4.0)]
    assert json.loads(run.read_text("metrics.jsonl").splitlines()[-1])["loss"] == 4.0
