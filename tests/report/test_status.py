"""`tapir status`: read from a run's storage alone, for running, stopped, killed and finished runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tapir_ray import cli
from tapir_ray.config import Budget
from tapir_ray.errors import Reached, StageError, Stopped
from tapir_ray.llm.budget.files import UsageFiles
from tapir_ray.llm.budget.ledger import Ledger
from tapir_ray.llm.budget.usage import Count, Lease, Report
from tapir_ray.llm.roles import accounts_of
from tapir_ray.methods import layout_of
from tapir_ray.report.status import DONE, FAILED, KILLED, NOT_STARTED, RUNNING, STOPPED, status
from tapir_ray.run import attempts
from tapir_ray.run.attempts import owned
from tapir_ray.run.progress import Progress
from tapir_ray.steps.context import Context
from tests.steps.contexts import context_for, write

PRICED = {"base_url": "http://127.0.0.1:9/v1", "api_key_env": None, "price": {"input": 1.0, "output": 10.0}}


def run_in(folder: Path, **curriculum: Any) -> Context:
    """Returns a run of two rounds with a budget, as its first start leaves it."""
    seed = write(folder / "seed.jsonl", [{"instruction": "q", "output": "a"}])
    rounds = {"rounds": 2, **curriculum}
    context = context_for(folder, seed, teacher=PRICED, budget={"max_cost": 5.0}, curriculum=rounds)
    context.run.progress = context.progress
    return context


@contextmanager
def started(context: Context) -> Iterator[None]:
    with owned(context.run, context.run.under_way) as context.run.attempt:
        yield


@contextmanager
def in_score(context: Context) -> Iterator[None]:
    with context.progress.span("score", 1), context.progress.stage("round 1 score", "rounds/01/scored", 1000):
        yield


def beaten(context: Context, attempt: int) -> str:
    """Waits for a heartbeat with a row; returns its text."""
    name = f"attempts/{attempt:05d}.beat.json"
    while True:
        if context.run.exists(name) and any(stage["rows"] for stage in context.run.read_json(name)["stages"]):
            return context.run.read_text(name)
        time.sleep(0.02)


def scoring(context: Context, error: BaseException | None = None) -> None:
    """Counts half of the rows of a scored table in a stage that ends or raises `error`."""
    with suppress(BaseException), started(context), in_score(context):
        context.progress.count("rounds/01/scored", 500, 3)
        if error is not None:
            raise error


def shown(context: Context, capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the output of the command."""
    capsys.readouterr()
    assert cli.main(["status", context.run.uri]) == 0
    return capsys.readouterr().out


def test_a_running_stage_is_known_from_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(attempts, "BEAT_S", 0.05)
    context = run_in(tmp_path)
    with in_score(context):
        context.progress.keep("rounds/01/scored", 500)
        context.progress._stages[0].failed = 3
        context.progress._stages[0].waits = "MapBatches(Asker) waits: 4 tasks run, 2 blocks wait"
        with started(context):
            beaten(context, 1)
            found, text = status(context.run.uri, layout_of), shown(context, capsys)
    assert (found["status"], found["reason"], found["continue"]) == (RUNNING, None, None)
    assert found["owner"]["alive"] and found["owner"]["attempt"] == 1
    (stage,) = found["stages"]
    assert (stage["stage"], stage["round"], stage["rows"], stage["expected"]) == ("score", 1, 500, 1000)
    assert (stage["failed"], stage["rows_per_second"]) == (3, 0.0), "rows of an earlier attempt are no speed"
    assert "in round 1 score; 500 of 1,000 rows" in text and "3 failed" in text
    assert "; MapBatches(Asker) waits: 4 tasks run" in text and "last heartbeat" in text


@pytest.mark.parametrize(
    ("error", "state", "reason", "how"),
    [
        (Stopped("the budget is used up; raise budget.max_cost"), STOPPED, "the budget is used up", "the same command"),
        (
            StageError("too many rows failed"),
            FAILED,
            "too many rows failed",
            "fix the reason, then start the same command again",
        ),
        (Reached("stopped after score, as asked"), STOPPED, "stopped after score", ", without --until"),
    ],
)
def test_a_stopped_run_shows_stage_reason_and_how_to_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, state: str, reason: str, how: str
) -> None:
    context = run_in(tmp_path)
    scoring(context, error)
    found = status(context.run.uri, layout_of)
    assert (found["status"], found["stages"][0]["rows"]) == (state, 500)
    assert reason in found["reason"] and how in found["continue"]
    text = shown(context, capsys)
    assert "ended in round 1 score; 500 of 1,000 rows" in text and f"reason: {reason}" in text


def test_a_killed_run_can_be_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine its death is known from the missing heartbeats."""
    monkeypatch.setattr(attempts, "PATIENCE_S", 0.2)
    monkeypatch.setattr(attempts, "BEAT_S", 0.1)
    context = run_in(tmp_path)
    with suppress(Stopped), started(context):
        raise Stopped("an earlier stop, which is not the reason")
    with started(context), context.progress.stage("classify", "seed/instructions", 10):
        context.progress.count("seed/instructions", 4, 0)
        beat = beaten(context, 2)
    context.run.fs.delete_file(context.run.path("attempts/00002.ended.json"))
    context.run.write_text("attempts/00002.beat.json", beat)
    who = context.run.read_json("attempts/00002.json")
    context.run.write_json("attempts/00002.json", {**who, "host": "elsewhere", "command": "tapir run c.yaml"})
    found = status(context.run.uri, layout_of)
    assert (found["status"], found["reason"], found["owner"]["host"]) == (KILLED, None, "elsewhere")
    assert found["stages"][0]["label"] == "classify" and found["stages"][0]["rows"] == 4
    assert found["continue"].endswith("start the same command again, which keeps what is finished: tapir run c.yaml")


def test_a_finished_run_has_nothing_to_continue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = run_in(tmp_path)
    with started(context):
        for number in (1, 2):
            context.run.publish(f"checkpoints/{number:02d}")
        context.run.write_json("summary.json", {"status": "done"})
    found = status(context.run.uri, layout_of)
    assert (found["status"], found["continue"], found["rounds_trained"]) == (DONE, None, 2)
    assert "rounds trained: 2 of 2" in shown(context, capsys)


def test_a_regeneration_has_shards_and_no_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = write(tmp_path / "seed.jsonl", [{"instruction": "q", "output": "a"}])
    settings = {"operations": ["filter"], "shards": {"rows": 2}}
    context = context_for(tmp_path, seed, regenerate=settings)
    assert status(context.run.uri, layout_of)["shards"] == {"finished": 0, "all": None}
    context.run.write_rows("seed/ingested", pa.table({"n": list(range(5))}))
    context.run.publish("shards/00000/regenerated")
    context.run.publish("shards/00001/labelled")
    found = status(context.run.uri, layout_of)
    assert (found["shards"], found["rounds_planned"]) == ({"finished": 1, "all": 3}, 0)
    assert found["continue"] == f"tapir regenerate CONFIG --run-dir {context.run.uri}"
    text = shown(context, capsys)
    assert "shards finished: 1 of 3" in text and "rounds" not in text


def test_after_another_command_the_run_is_still_to_be_started(tmp_path: Path) -> None:
    """`tapir classifier train` has ended well, but does not continue the rounds."""
    context = run_in(tmp_path)
    scoring(context)
    found = status(context.run.uri, layout_of)
    assert (found["status"], found["reason"]) == (STOPPED, None)
    assert found["continue"] == f"tapir run CONFIG --run-dir {context.run.uri}"


def test_the_numbers_of_a_round_are_those_of_its_last_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = run_in(tmp_path)
    context.note_round("holdout", 0, holdout_score=4.25, rows=40)
    context.note_round("plan", 1, alpha=0.3, threshold=2.0, hard=70, easy=30, difficulty=1.5, student_score=5.0)
    context.note_round("mix", 1, alpha=0.25)
    found = status(context.run.uri, layout_of)
    assert found["status"] == NOT_STARTED
    first, second = found["rounds"]
    assert first == {"round": 0, "holdout_score": 4.25}
    assert second == {"round": 1, "alpha": 0.25, "threshold": 2.0, "hard": 70, "easy": 30, "difficulty": 1.5,
                      "student_score": 5.0}  # fmt: skip
    assert found["last_event"]["event"] == "mix"
    text = shown(context, capsys)
    assert "round 1: α 0.25, δ 2, hard 70, easy 30, mean difficulty 1.5, student's score 5" in text
    assert "mix round 1, alpha 0.25" in text


def test_a_selection_and_its_numbers_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = run_in(tmp_path, difficulty={"select": "frontier"})
    context.note_round("plan", 1, threshold=2.0, ceiling=5.0, hard=40, easy=40, seen=10, unseen=70, draws_random=9)
    context.note_round("mix", 1, alpha=0.3, unscored=120, probes=4)
    text = shown(context, capsys)
    assert "rounds trained: 0 of 2; curriculum.difficulty.select frontier" in text
    assert (
        "round 1: α 0.3, δ 2, ceiling 5, hard 40, easy 40, seen 10, unseen 70, draws from random rows 9, "
        "unscored units in the mix 120, probes 4" in text
    )
    assert status(context.run.uri, layout_of)["select"] == "frontier"


def test_the_gain_over_the_control_is_said_as_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = run_in(tmp_path)
    numbers = {"gain": -0.5, "gain_low": -0.82, "gain_high": -0.17, "gain_rows": 400, "control": "sft"}
    context.note_round("control_gain", 1, **{**numbers, "gain": 0.1})
    context.note_round("control_gain", 1, **numbers)
    assert status(context.run.uri, layout_of)["rounds"] == [{"round": 1, **numbers}]
    text = shown(context, capsys)
    assert "round 1: curriculum -0.50 [-0.82, -0.17] over plain SFT (400 rows): plain SFT is better\n" in text
    assert text.count("round 1") == 2, "the line and the last event"


def test_spending_sums_all_attempts_against_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = run_in(tmp_path)
    accounts = accounts_of(context.config)
    for attempt in (1, 2):
        ledger = Ledger(accounts, Budget(max_cost=5.0), UsageFiles(context.run.uri, attempt))
        ledger.lease("judge", [Lease(f"on-its-way-{attempt}", 100, 50)])
        count = Count("expand", requests=2, input_tokens=100_000, output_tokens=10_000, failed=1)
        ledger.record(Report("w", 1, [("teacher", count)], []))
        ledger.save()
    found = status(context.run.uri, layout_of)["spend"]
    assert found["roles"]["teacher"]["cost"] == pytest.approx(0.4) == found["cost"]
    assert (found["tokens"], found["max_cost"]) == (220_000, 5.0)
    assert found["unsettled_tokens"] == 300 and found["unsettled_cost"] == pytest.approx(0.0012)
    text = shown(context, capsys)
    assert "teacher: 4 requests, 2 failed, 220,000 tokens, $0.4000" in text
    assert "spent: $0.4000 of $5.00, 220,000 tokens; requests without a reply cost at most $0.0012, 300 tokens" in text


def test_json_is_one_line_and_reading_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = run_in(tmp_path)
    scoring(context, Stopped("x"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert cli.main(["status", context.run.uri, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == status(context.run.uri, layout_of)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_folder_without_a_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(tmp_path / "none")]) == 2
    assert "holds no run (no config.yaml)" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_stall_is_recorded_as_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapir_ray.run import progress

    monkeypatch.setattr(progress, "_waiting", lambda: "MapBatches(Asker) waits: 1 tasks run, 0 blocks wait")
    context = run_in(tmp_path)
    noting: dict[str, Any] = {"stall_after_s": 1.0, "note": context.run.event}
    watching = Progress(lambda: {}, **noting)
    with watching.stage("classify", "seed/instructions", 10):
        watching._stages[0].moved -= 2
        watching.look(watching._stages[0])
    event = status(context.run.uri, layout_of)["last_event"]
    assert (event["event"], event["stage"], event["seconds"]) == ("stalled", "classify", 2)
    assert event["waits"].startswith("MapBatches(Asker) waits")
