"""`tapir compare`: two runs on the holdout rows of both, with what they do not share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapir_ray import cli
from tapir_ray.data.schemas import HOLDOUT, SCORED, SEED, conform
from tapir_ray.errors import InputError
from tapir_ray.methods import layout_of
from tapir_ray.report.compare import compare
from tapir_ray.run.run import Run
from tests.steps.contexts import context_for, write


def run_in(folder: Path, scores: list[dict[str, float]], rounds: int = 2, **sections: Any) -> str:
    """Returns the folder of a run that has scored its students after round 0, 1, …"""
    folder.mkdir()
    seed = write(folder / "seed.jsonl", [{"instruction": "q", "output": "a"}])
    context = context_for(folder, seed, curriculum={"rounds": rounds}, **sections)
    for number, of_round in enumerate(scores):
        row = {"split": HOLDOUT, "status": "ok", "task": "Math"}
        rows = [{**row, "instruction_id": name, "student_score": score} for name, score in of_round.items()]
        rows.append({**row, "instruction_id": "seed", "split": SEED, "student_score": 1.0})
        context.run.write_rows(context.loop.judged_holdout(number), conform(rows, SCORED))
        if number:
            context.run.publish(context.loop.checkpoint(number))
    return context.run.uri


def test_each_round_and_the_last_rounds_are_compared(tmp_path: Path) -> None:
    one = run_in(tmp_path / "a", [{"x": 3.0, "y": 3.0}, {"x": 4.0, "y": 4.0}, {"x": 6.0, "y": 5.0, "only": 9.0}])
    found = compare(one, run_in(tmp_path / "c", [{"x": 3.0, "y": 3.0}, {"x": 5.0, "y": 5.0, "w": 1.0}]), layout_of)
    assert (found["common_rows"], found["rows_of_run_only"], found["rows_of_other_only"]) == (2, 1, 1)
    assert found["last"]["rounds"] == [2, 1] and found["last"]["mean"] == 0.5 and found["last"]["left_out"] == 2
    assert [(entry["round"], entry["mean"]) for entry in found["rounds"]] == [(0, 0.0), (1, -1.0)]
    assert found["warnings"] == []


def test_the_command_prints_lines_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = run_in(tmp_path / "a", [{"x": 3.0}, {"x": 4.0}])
    other = run_in(tmp_path / "b", [{"x": 3.0}, {"x": 5.0, "y": 5.0}])
    capsys.readouterr()
    assert cli.main(["compare", one, other]) == 0
    shown = capsys.readouterr().out
    assert "1 rows are common, 0 only in the first and 1 only in the second" in shown
    assert (
        "last round (1, of the other 1): -1.00 [-1.00, -1.00] (1 rows, without 1 that one of them lacks): worse"
        in shown
    )
    assert "round 0: +0.00 [+0.00, +0.00] (1 rows): no difference is shown" in shown
    assert cli.main(["compare", one, other, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == compare(one, other, layout_of)


def test_a_suite_of_both_runs_is_compared_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = []
    for name, score, suites in (("a", 1.0, ["my:X", "my:Mine"]), ("b", 0.0, ["my:X"])):
        runs.append(run_in(tmp_path / name, [{"x": 3.0}], rounds=1, evaluate={"suites": ["holdout", *suites]}))
        row = {"instruction_id": "i", "status": "ok", "student_score": score}
        for suite in suites:
            Run.at(runs[-1]).write_rows(f"evaluation/{suite.removeprefix('my:')}", conform([row], SCORED))
    found = compare(*runs, layout_of)["suites"]
    assert list(found) == ["X"] and found["X"]["gain"]["mean"] == 1.0
    capsys.readouterr()
    assert cli.main(["compare", *runs]) == 0
    assert "X: the first 1.000, the second 0.000: +1.000 [+1.000, +1.000] (1 rows): better" in capsys.readouterr().out


def test_runs_without_a_common_row_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = run_in(tmp_path / "a", [{"x": 3.0}]), run_in(tmp_path / "b", [{"y": 3.0}])
    capsys.readouterr()
    assert cli.main(["compare", one, other]) == 2
    assert "have no holdout row in common; the same seed data" in capsys.readouterr().err


def test_folders_without_scores_are_refused(tmp_path: Path) -> None:
    one = run_in(tmp_path / "a", [{"x": 3.0}])
    with pytest.raises(InputError, match="no run"):
        compare(one, str(tmp_path / "none"), layout_of)
    with pytest.raises(InputError, match="no scores of the holdout yet"):
        compare(one, run_in(tmp_path / "b", []), layout_of)
    seed = write(tmp_path / "seed.jsonl", [{"instruction": "q", "output": "a"}])
    regenerated = context_for(tmp_path, seed, regenerate={"operations": ["filter"]})
    with pytest.raises(InputError, match="a regeneration"):
        compare(one, regenerated.run.uri, layout_of)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"judge": {"model": "other"}}, "judge.model"),
        ({"judge": {"both_orders": False}}, "judge.both_orders"),
        ({"score": {"max_rows": 5}}, None),
    ],
)
def test_other_judges_are_a_warning(tmp_path: Path, sections: dict[str, Any], named: str | None) -> None:
    one = run_in(tmp_path / "a", [{"x": 3.0}])
    warnings = compare(one, run_in(tmp_path / "b", [{"x": 3.0}], **sections), layout_of)["warnings"]
    assert len(warnings) == (named is not None) and (named is None or named in warnings[0])


def test_a_run_that_ended_early_is_compared_at_its_last_student(tmp_path: Path) -> None:
    """Its holdout results are those of round 1, although three rounds were planned."""
    one = run_in(tmp_path / "a", [{"x": 3.0}, {"x": 4.0}], rounds=3)
    run = context_for(tmp_path / "a", str(tmp_path / "a/seed.jsonl"), curriculum={"rounds": 3}).run
    held = {"instruction_id": "x", "split": HOLDOUT, "status": "ok", "student_score": 4.5}
    run.write_rows("evaluation/holdout", conform([held], SCORED))
    found = compare(one, run_in(tmp_path / "b", [{"x": 3.0}, {"x": 4.0}]), layout_of)
    assert found["last"]["rounds"] == [1, 1] and found["last"]["mean"] == 0.5
