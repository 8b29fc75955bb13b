"""Examples at the end of a run: rows are chosen by a rule, not by how good they look."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tapir_ray.data.schemas import HOLDOUT, SCORED, SEED, conform
from tapir_ray.report.console import console
from tapir_ray.report.examples import MOST_CHARACTERS, examples, print_examples
from tests.steps.contexts import context_for, write

BEFORE = {"a1": 2.0, "a2": 2.0, "a3": 2.0, "b1": 5.0, "c1": 6.0, "d1": 6.0}
AFTER = {"a1": 9.0, "a2": 5.0, "a3": 4.0, "b1": 6.0, "c1": 6.0, "d1": 5.0}


def scored(scores: dict[str, float], said: str) -> Any:
    rows = [
        {
            "instruction_id": name,
            "split": HOLDOUT,
            "task": name[0].upper(),
            "status": "ok",
            "messages": [{"role": "user", "content": f"question {name}"}],
            "response": f"teacher {name}",
            "student_response": f"{said} {name}",
            "student_score": score,
        }
        for name, score in scores.items()
    ]
    return conform([*rows, {**rows[0], "instruction_id": "trained", "split": SEED, "student_score": 10.0}], SCORED)


def run_of(folder: Path, before: dict[str, float], after: dict[str, float]) -> Any:
    seed = write(folder / "seed.jsonl", [{"instruction": "q", "output": "a"}])
    context = context_for(folder, seed, curriculum={"rounds": 1})
    context.run.write_rows("rounds/01/scored", scored(before, "old"))
    context.run.write_rows("evaluation/holdout", scored(after, "new"))
    return context


def test_best_middle_and_worst_task_with_the_row_of_median_gain(tmp_path: Path) -> None:
    """A gains 7, 3 and 2: the row with 3 is shown. B +1, C 0, D −1: C is in the middle of four, D gains least."""
    context = run_of(tmp_path, BEFORE, AFTER)
    found = examples(context.run, context.loop)
    assert [(row["task"], row["instruction_id"]) for row in found] == [("A", "a2"), ("C", "c1"), ("D", "d1")]
    assert found[0]["before"] == {"answer": "old a2", "score": 2.0}
    assert found[0]["after"] == {"answer": "new a2", "score": 5.0}
    out = io.StringIO()
    print_examples(found, console(out))
    for text in (
        "question a2",
        "before  2.0  old a2",
        "after   5.0  new a2",
        "teacher      teacher a2",
        "gained\nleast",
    ):
        assert text in out.getvalue()


def test_a_row_that_one_student_lacks_is_no_example(tmp_path: Path) -> None:
    context = run_of(tmp_path, {"a1": 2.0, "b1": 3.0}, {"b1": 4.0, "c1": 9.0})
    assert [row["instruction_id"] for row in examples(context.run, context.loop)] == ["b1"]


def test_without_common_rows_nothing_is_printed(tmp_path: Path) -> None:
    context = run_of(tmp_path, {"a1": 2.0}, {"c1": 9.0})
    out = io.StringIO()
    print_examples(examples(context.run, context.loop), console(out))
    assert out.getvalue() == ""


def test_a_long_text_says_how_long_it_is(tmp_path: Path) -> None:
    context = run_of(tmp_path, {"a1": 2.0}, {"a1": 3.0})
    rows = scored({"a1": 3.0}, "x" * 2_000)
    context.run.clear("evaluation/holdout")
    context.run.write_rows("evaluation/holdout", rows)
    answer = examples(context.run, context.loop)[0]["after"]["answer"]
    assert answer.startswith("x" * MOST_CHARACTERS) and "(2,003 characters)" in answer
