"""A user's tracker, a class of this file: it receives the numbers of a run, and none of its failures ends the run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import Config, parse
from tapir_ray.config.differences import differences
from tapir_ray.errors import InputError, Reached, StageError, Stopped
from tapir_ray.llm.roles import Roles
from tapir_ray.run.attempts import owned
from tapir_ray.run.progress import Progress
from tapir_ray.run.run import Run
from tapir_ray.run.trackers import RunInfo, Tracker, background, tracked
from tapir_ray.steps.context import ROUND_EVENTS, Context
from tests.page_examples import example

HERE = "tests.run.trackers.test_added"
CALLS: list[tuple[Any, ...]] = []
"""Calls that the trackers of this file received."""


class Mine(Tracker):
    """Records all its calls."""

    def start(self, run: RunInfo) -> None:
        CALLS.append(("start", run))

    def log(
        self, kind: str, numbers: Mapping[str, Any], round_number: int | None = None, step: int | None = None
    ) -> None:
        CALLS.append((kind, dict(numbers), round_number, step))

    def progress(self, stages: Sequence[Mapping[str, Any]], usage: Mapping[str, Any]) -> None:
        CALLS.append(("progress", [dict(stage) for stage in stages], dict(usage)))

    def end(self, status: str) -> None:
        CALLS.append(("end", status))


class Broken(Tracker):
    """Raises in every call."""

    def log(self, kind: str, *_: Any) -> None:
        raise RuntimeError(f"no route to host, token=hf_{'a1' * 10}, for {kind}")


class Unbuilt(Tracker):
    """Fails when it is constructed."""

    def __init__(self) -> None:
        raise ConnectionError("log in first")


class Slow(Tracker):
    """Never returns."""

    going_on = threading.Event()

    def log(self, kind: str, *_: Any) -> None:
        self.going_on.wait(60)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    CALLS.clear()
    Slow.going_on.clear()
    yield
    Slow.going_on.set()


def config(*trackers: str, **sections: Any) -> Config:
    return parse(
        {
            "name": "tracked",
            "student": {"model": "m"},
            "seed_data": {"path": "a.jsonl"},
            "teacher": {"base_url": "http://127.0.0.1:9/v1", "api_key_env": None},
            "trackers": [f"{HERE}:{name}" for name in trackers],
            **sections,
        }
    )


def run_some(folder: Path, settings: Config, error: BaseException | None = None) -> Run:
    """Runs a start that plans a round, trains a little, and completes or raises."""
    run = Run.open(settings, str(folder / "run"))
    roles = Roles(settings, run.run_id)
    with owned(run) as run.attempt, tracked(run, settings, ROUND_EVENTS) as trackers:
        context: Any = Context(run, settings, None, roles, None, None, Progress(roles.usage), trackers)  # type: ignore[arg-type]
        with context.stage("score", 1):
            context.note_round("plan", 1, alpha=0.3, threshold=2.0)
        steps = [{"training": "a", "step": n, "run_step": n, "loss": loss} for n, loss in enumerate([2.5, 1.5])]
        trackers.log_steps("train", steps, 1)
        if error is not None:
            raise error
    return run


def test_a_tracker_receives_the_numbers_of_rounds_stages_and_steps(tmp_path: Path) -> None:
    run = run_some(tmp_path, config("Mine"))
    (_, info), plan, (stage, seconds, *of_stage), *steps, end = CALLS
    assert (info.run_id, info.name, info.attempt) == (run.run_id, "tracked", 1)
    assert info.config["student"]["model"] == "m" and info.earlier == []
    assert plan == ("plan", {"alpha": 0.3, "threshold": 2.0}, 1, None)
    assert (stage, seconds.pop("stage"), *of_stage) == ("stage", "score", 1, None) and seconds.keys() == {"seconds"}
    assert steps == [("train", {"loss": 2.5}, 1, 0), ("train", {"loss": 1.5}, 1, 1)]
    assert end == ("end", "completed")


def test_the_run_records_the_same_numbers(tmp_path: Path) -> None:
    run = run_some(tmp_path, config())
    ((plan, stage),) = [run.all_events()]
    assert (plan["event"], plan["round"], plan["alpha"], plan["attempt"]) == ("plan", 1, 0.3, 1)
    assert (stage["event"], stage["stage"], stage["round"]) == ("stage", "score", 1) and stage["seconds"] >= 0
    assert run.read_text("metrics.jsonl").splitlines() == [
        '{"kind": "train", "round": 1, "training": "a", "step": 0, "run_step": 0, "loss": 2.5}',
        '{"kind": "train", "round": 1, "training": "a", "step": 1, "run_step": 1, "loss": 1.5}',
    ]


def test_a_continued_run_reports_the_numbers_of_earlier_rounds(tmp_path: Path) -> None:
    run_some(tmp_path, config())
    run_some(tmp_path, config("Mine"))
    info = CALLS[0][1]
    assert info.attempt == 2
    assert [(kind, dict(numbers), number) for kind, numbers, number in info.earlier] == [
        ("plan", {"alpha": 0.3, "threshold": 2.0}, 1)
    ]
    assert [(kind, numbers["loss"], number) for kind, numbers, number in info.earlier_steps] == [
        ("train", 2.5, 1),
        ("train", 1.5, 1),
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StageError("too many failed"), "failed"),
        (ValueError("a bug"), "failed"),
        (Stopped("the budget is used up"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (Reached("score is done"), "completed"),
    ],
)
def test_the_end_is_reported_with_its_status(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)):
        run_some(tmp_path, config("Mine"), error)
    assert CALLS[-1] == ("end", status)


def test_an_error_of_a_tracker_ends_no_run_and_is_logged_once_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run_some(tmp_path, config("Broken", "Mine", "Unbuilt"))
    assert CALLS[-1] == ("end", "completed"), "the other trackers continue"
    broken, unbuilt = sorted(record.getMessage() for record in caplog.records)
    assert broken == (
        f"trackers {HERE}:Broken: log: RuntimeError: no route to host, token=***, for plan; the run continues"
    )
    assert unbuilt == f"trackers {HERE}:Unbuilt: start: ConnectionError: log in first; the run continues"


def test_a_hanging_tracker_delays_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "END_S", 0.2)
    monkeypatch.setattr(background, "MOST_WAITING", 2)
    with caplog.at_level(logging.WARNING):
        run = run_some(tmp_path, config("Slow"))
    assert [event["event"] for event in run.all_events()] == ["plan", "stage"]
    (record,) = caplog.records
    assert "Slow: it is 2 calls behind, and new calls are dropped" in record.getMessage()


def test_progress_does_not_queue_up_behind_a_slow_tracker() -> None:
    """A tracker that is behind has no use for numbers that newer ones replace."""
    mine = background.Background("slow", Mine)
    mine.progress([{"stage": "a", "rows": 1}], {})
    mine.progress([{"stage": "a", "rows": 2}], {"teacher": {"judge": {"requests": 3}}})
    mine.start(RunInfo("r", "n", "/r", 1, {}, []))
    deadline = time.monotonic() + 20
    while len(CALLS) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    mine.end("completed")
    assert [name for name, *_ in CALLS] == ["progress", "start", "end"]
    assert CALLS[0][1] == [{"stage": "a", "rows": 1}]


def test_trackers_receive_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "a-key-of-a-provider")
    settings = config("Mine", simulator={"log": "/logs/a-key-of-a-provider"})
    run = Run.open(settings, str(tmp_path / "run"))
    with tracked(run, settings, ROUND_EVENTS) as trackers:
        trackers.log("stage", {"stage": "of https://me:pass-word@host/v1", "seconds": 1.5}, 1)
    (_, info), logged, _ = CALLS
    assert info.config["simulator"]["log"] == "/logs/***"
    assert logged[1] == {"stage": "of https://***@host/v1", "seconds": 1.5}


def test_an_object_that_is_no_tracker_is_refused() -> None:
    for spec, words in {
        "tests.run.trackers.test_added:config": r"trackers: '.*:config' is not a subclass of tapir_ray\.run\.trackers",
        "tests.run.trackers.test_added:Mien": r"trackers: module .* has no 'Mien'",
        "comet": r"trackers: unknown name 'comet'; give one of mlflow, tensorboard, trackio, wandb, or package",
    }.items():
        with pytest.raises(InputError, match=words):
            background.users_trackers(parse({**config().model_dump(), "trackers": [spec]}))


def test_trackers_change_no_results() -> None:
    assert config("Mine").digest() == config().digest()
    assert not differences(config("Mine"), config())


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example("trackers.md", 0, "my_trackers", monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    run = run_some(tmp_path, config(trackers=["my_trackers:Csv"]))
    lines = (tmp_path / "tapir.csv").read_text().splitlines()
    assert lines[:2] == [f"{run.run_id},plan,1,,alpha,0.3", f"{run.run_id},plan,1,,threshold,2.0"]
    assert lines[-1] == f"{run.run_id},train,1,1,loss,1.5"
