"""Two students on the same items: what counts, what is missing and why, contaminated items, the items that moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from tapir_ray.data.schemas import SCORED, conform
from tapir_ray.evaluate.comparison import compared, in_lines
from tapir_ray.evaluate.results import read_results
from tapir_ray.run.layout import Table
from tapir_ray.run.run import Run

MARKED = pa.schema([*SCORED, ("contaminated", pa.bool_())])
FIRST, SECOND = Table("evaluation/X"), Table("evaluation/initial/X")


def row(name: str, score: float | None, **columns: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"question {name}\nin two lines"}]
    status = {"status": "ok"} if score is not None else {"status": "failed", "reason": "bad_request: no"}
    return {"instruction_id": name, "messages": messages, "student_score": score, **status, **columns}


def run_with(folder: Path, first: list[dict[str, Any]], second: list[dict[str, Any]]) -> Run:
    run = Run.at(str(folder / "run"))
    for table, rows in ((FIRST, first), (SECOND, second)):
        run.write_rows(table, conform(rows, MARKED))
    return run


def test_only_common_items_count_and_the_others_have_a_reason(tmp_path: Path) -> None:
    first = [row("a", 1.0), row("b", 0.0), row("c", 0.5), row("d", None), row("only", 1.0)]
    second = [row("a", 0.0), row("b", 1.0), row("c", 0.5), row("d", 1.0), row("only", None)]
    run = run_with(tmp_path, [*first, row("new", 1.0)], second)
    found = compared(run, FIRST, run, SECOND)
    assert found is not None
    assert (found["mean"], found["other_mean"], found["gain"]["rows"]) == (0.5, 0.5, 3)
    assert (found["wins"], found["losses"], found["ties"]) == (1, 1, 1)
    assert found["missing"] == {"bad_request": 1}
    assert found["other_missing"] == {"bad_request": 1, "not an item": 1}
    lines = "\n".join(in_lines(found, "mine", "theirs"))
    assert "mine 0.500, theirs 0.500: +0.000" in lines and "1 wins, 1 losses, 1 ties" in lines
    assert "theirs has no score for 1 items (bad_request), 1 items (not an item)" in lines
    assert "  0 → 1  question a in two lines" in lines and "  1 → 0  question b in two lines" in lines
    assert "question c" not in lines, "it has not moved"


def test_rows_of_another_split_are_no_items(tmp_path: Path) -> None:
    """The scores of the first round, which are the initial student's of the holdout, have seed rows too."""
    held, seed = row("a", 1.0, split="holdout"), row("b", 1.0, split="seed")
    run = run_with(tmp_path, [held], [held, seed])
    found = compared(run, FIRST, run, SECOND, split="holdout")
    assert found is not None and found["gain"]["left_out"] == 0 and found["missing"] == {}


def test_the_items_that_moved_most_are_shown_gains_first(tmp_path: Path) -> None:
    steps = {"a": 0.1, "b": 0.9, "c": -0.8, "d": 0.5, "e": -0.1}
    first, second = [row(name, 1.0 + step) for name, step in steps.items()], [row(name, 1.0) for name in steps]
    run = run_with(tmp_path, first, second)
    found = compared(run, FIRST, run, SECOND, moved=2)
    assert found is not None
    assert [item["instruction_id"] for item in found["moved"]] == ["b", "d", "e", "c"]


def test_a_few_items_are_shown_once(tmp_path: Path) -> None:
    run = run_with(tmp_path, [row("a", 1.0)], [row("a", 0.0)])
    found = compared(run, FIRST, run, SECOND)
    assert found is not None and [item["instruction_id"] for item in found["moved"]] == ["a"]


def test_the_gain_without_contaminated_items_is_told_too(tmp_path: Path) -> None:
    first = [row("a", 1.0, contaminated=True), row("b", 0.0, contaminated=False)]
    second = [row(name, 0.0, contaminated=False) for name in "ab"]
    run = run_with(tmp_path, first, second)
    found = compared(run, FIRST, run, SECOND)
    assert found is not None and found["gain"]["mean"] == 0.5
    assert found["without_contaminated"]["mean"] == 0.0 and found["without_contaminated"]["rows"] == 1
    assert read_results(run, FIRST).contaminated == {"a"} and read_results(run, SECOND).contaminated == set()


def test_marks_of_some_items_alone_tell_nothing(tmp_path: Path) -> None:
    run = run_with(tmp_path, [row("a", 1.0, contaminated=True), row("b", 0.0)], [row("a", 1.0)])
    assert read_results(run, FIRST).contaminated is None


def test_without_a_common_item_nothing_is_compared(tmp_path: Path) -> None:
    run = run_with(tmp_path, [row("a", 1.0)], [row("b", 1.0)])
    assert compared(run, FIRST, run, SECOND) is None
    assert in_lines(None, "mine", "theirs") == ["mine and theirs have no scored item in common"]
