"""`curriculum.stop_when: no_gain`: a run ends after a round without a gain, for good, and asks nobody again."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tapir_ray import cli
from tapir_ray.cli.run import evaluate as evaluate_run
from tapir_ray.data.schemas import HOLDOUT, SCORED, SEED, conform
from tapir_ray.errors import InputError
from tapir_ray.methods import tapir
from tapir_ray.methods.tapir import distill
from tapir_ray.report.summary import print_table, summarise
from tapir_ray.steps import early_stop, score
from tapir_ray.steps.context import Context
from tapir_ray.steps.stop import StopAfter
from tests.steps.contexts import context_for, rows_of, write
from tests.transforms.test_pack_stats import WHOLE

ROWS = [f"row-{number}" for number in range(30)]


def run_of(folder: Path, means: list[float], **curriculum: Any) -> Context:
    """Returns a run whose students have these mean scores on the holdout, after round 0, 1, …; each row differs by 1
    from round to round in turns."""
    folder.mkdir(exist_ok=True)
    seed = write(folder / "seed.jsonl", [{"instruction": "q", "output": "a"}])
    settings = {"rounds": 3, "stop_when": "no_gain", **curriculum}
    context = context_for(folder, seed, curriculum=settings, holdout={"rows": 30})
    for number, mean in enumerate(means, start=1):
        rows = [
            {"instruction_id": row_id, "split": HOLDOUT, "status": "ok", "student_score": mean + (at + number) % 2}
            for at, row_id in enumerate(ROWS)
        ]
        other = {"instruction_id": "seed", "split": SEED, "status": "ok", "student_score": 9.0 * number}
        context.run.write_rows(f"rounds/{number:02d}/scored", conform([*rows, other], SCORED))
    return context


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([3.0, 5.0], False),
        ([5.0, 5.0], True),
        ([5.0, 5.2], True),
        ([5.0, 3.0], True),
    ],
    ids=["gain", "none", "within chance", "loss"],
)
def test_a_run_ends_unless_the_gain_is_above_0(
    tmp_path: Path, ray_local: None, means: list[float], expected: bool
) -> None:
    context = run_of(tmp_path, means)
    assert early_stop.ends(context, 2) == expected
    assert len(context.loop.rounds) == (1 if expected else 3)
    assert (early_stop.ended(context.run) is not None) == expected
    assert (context.run.done("evaluation/holdout") is not None) == expected


@pytest.mark.parametrize(
    ("means", "expected"),
    [([5.0, 5.2, 5.2], True), ([5.0, 3.0, 3.1], True), ([5.0, 7.0, 7.0], False), ([5.0, 5.0, 7.0], False)],
    ids=["chance twice", "loss, then chance", "gain, then none", "none, then gain"],
)
def test_two_rounds_in_a_row_without_a_gain_end_a_run_of_stop_rounds_2(
    tmp_path: Path, ray_local: None, means: list[float], expected: bool
) -> None:
    context = run_of(tmp_path, means, stop_rounds=2)
    assert not early_stop.ends(context, 2), "one round is not enough"
    assert early_stop.ends(context, 3) == expected
    assert len(context.loop.rounds) == (2 if expected else 3)
    if expected:
        assert "ends after round 2" in early_stop.sentence(early_stop.ended(context.run) or {})


def test_a_used_up_budget_ends_a_run_with_its_reason(tmp_path: Path, ray_local: None) -> None:
    context = run_of(tmp_path, [5.0, 5.2])
    early_stop.end(context, 1, reason="elad.max_annotations 40 is used up")
    decided = early_stop.ended(context.run)
    assert decided == {"round": 1, "reason": "elad.max_annotations 40 is used up"}
    assert early_stop.sentence(decided) == "ends after round 1: elad.max_annotations 40 is used up"
    assert context.run.done("evaluation/holdout") is not None and len(context.loop.rounds) == 1


def test_never_and_the_first_round_end_nothing(tmp_path: Path) -> None:
    assert not early_stop.ends(run_of(tmp_path / "a", [5.0, 3.0], stop_when="never"), 2)
    assert not early_stop.ends(run_of(tmp_path / "b", [5.0, 3.0]), 1)


def test_rounds_without_common_rows_do_not_end_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = run_of(tmp_path, [5.0])
    context.run.write_rows("rounds/02/scored", conform([], SCORED))
    assert not early_stop.ends(context, 2)
    assert "no holdout row has scores after rounds 0 and 1" in capsys.readouterr().err


def test_a_run_that_ended_early_is_done_and_ends_the_same_way_again(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scores that decided are the last student's scores in the summary. No step after them runs."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the run went on")

    context = run_of(tmp_path, [5.0, 5.2])
    run = context.run
    for table in ("checkpoints/00", "checkpoints/01", "rounds/01/training"):
        run.publish(table)
    for table in ("seed/packed", "seed/holdout_packed", "rounds/01/packed"):
        run.publish(table, extra=asdict(WHOLE))
    monkeypatch.setattr(tapir.round_zero, "ingest", lambda _: None)
    monkeypatch.setattr(tapir.round_zero, "classify_and_initial_sft", lambda _: None)
    monkeypatch.setattr(score, "plan", fail)
    for attempt in range(2):
        again = context_for(
            tmp_path, str(tmp_path / "seed.jsonl"), curriculum={"rounds": 3, "stop_when": "no_gain"},
            holdout={"rows": 30},
        )  # fmt: skip
        distill(again, StopAfter())
        summary = summarise(again)
        assert [entry["round"] for entry in summary["rounds"]] == [1], f"start {attempt}"
        assert summary["ended_early"]["round"] == 1 and summary["ended_early"]["gain"]["rows"] == 30
        assert summary["status"] == "done" and len(run.events("ended_early")) == 1
    held = rows_of(again, "evaluation/holdout")
    assert {row["instruction_id"] for row in held} == set(ROWS)
    assert sum(row["student_score"] for row in held) / 30 == pytest.approx(5.7)
    assert [event["round"] for event in run.events("holdout")] == [1]
    shown = io.StringIO()
    print_table(summary, run, shown)
    line = "ends after round 1, by curriculum.stop_when no_gain: its student gains +0.20 ["
    assert line in shown.getvalue()
    capsys.readouterr()
    assert cli.main(["status", run.uri]) == 0
    out = capsys.readouterr().out
    assert line in out and "rounds trained: 1 of 3" in out
    assert cli.main(["status", run.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ended_early"] == summary["ended_early"]


def test_jobs_that_evaluate_a_run_need_its_last_round_or_an_early_end(tmp_path: Path) -> None:
    context = run_of(tmp_path, [5.0, 3.0])
    with pytest.raises(InputError, match="has no checkpoints/03 to evaluate"):
        evaluate_run(context.config, context.run.uri)
