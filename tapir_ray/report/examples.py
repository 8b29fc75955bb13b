"""Answers of the student before and after a run, for people to read: a few holdout rows, chosen by a fixed rule.

    found = examples(run, layout)                 # for `summary.json`
    print_examples(found, out)

Shown are the task that gained most, the one in the middle and the one that gained least. Of a task it is the row whose
gain is the median of the task, so that neither the best nor the worst answer stands for all.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any

import pyarrow.compute as pc
from rich.console import Console

from tapir_ray.data.schemas import HOLDOUT, OK
from tapir_ray.evaluate.suite import NO_TASK
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run

COLUMNS = ["instruction_id", "split", "task", "status", "messages", "response", "student_response", "student_score"]
MOST_CHARACTERS = 600
"""Characters of a text that are kept; the tables of the run have all."""


def examples(run: Run, layout: LoopLayout) -> list[dict[str, Any]]:
    """Returns at most three holdout rows with the student's answers before the first round and after the last one.

    Each has `task`, `question` (the last user turn), `teacher` (its answer), and `before` and `after` with `answer` and
    `score` (1 to 10). Empty without rounds, or without a row that both students were scored on.
    """
    if not layout.rounds:
        return []
    before, after = (_rows(run, layout.judged_holdout(number)) for number in (0, len(layout.rounds)))
    by_task: dict[str, list[str]] = defaultdict(list)
    for row_id in before.keys() & after.keys():
        by_task[after[row_id]["task"] or NO_TASK].append(row_id)

    def gain(row_id: str) -> float:
        return float(after[row_id]["student_score"] - before[row_id]["student_score"])

    tasks = sorted(by_task, key=lambda task: (-fmean(map(gain, by_task[task])), task))
    chosen = list(dict.fromkeys(tasks[at] for at in (0, len(tasks) // 2, len(tasks) - 1) if tasks))
    found = []
    for task in chosen:
        ids = sorted(by_task[task], key=lambda row_id: (gain(row_id), row_id))
        row_id = ids[len(ids) // 2]
        row = after[row_id]
        users = [turn["content"] for turn in row["messages"] if turn["role"] == "user"]
        both = {"before": before[row_id], "after": row}
        found.append(
            {
                "instruction_id": row_id,
                "task": task,
                "question": _kept(users[-1] if users else row["messages"][-1]["content"]),
                "teacher": _kept(row["response"]),
                **{
                    name: {"answer": _kept(one["student_response"]), "score": round(one["student_score"], 2)}
                    for name, one in both.items()
                },
            }
        )
    return found


def _rows(run: Run, table: Table) -> dict[str, dict[str, Any]]:
    """Returns the scored holdout rows of a table with an answer, by id; empty if the table is not finished."""
    rows: dict[str, dict[str, Any]] = {}
    for batch in run.scan(table, COLUMNS) if run.done(table) else ():
        ok = pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK))
        ok = pc.and_(ok, pc.and_(pc.is_valid(batch["student_score"]), pc.is_valid(batch["student_response"])))
        rows |= {row["instruction_id"]: row for row in batch.filter(ok).to_pylist()}
    return rows


def _kept(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} … ({len(text):,} characters)"


def print_examples(found: list[dict[str, Any]], out: Console) -> None:
    """Prints each example with its question, the answers before and after with their scores, and the teacher's."""
    if not found:
        return
    out.print(
        "the student's answers before and after: the task that gained most, one in the middle, the one that gained"
    )
    out.print("least; of each the row with the median gain")
    for example in found:
        out.print(f"\n{example['task']}", style="bold")
        before, after = example["before"], example["after"]
        for name, text in (
            ("question", example["question"]),
            (f"before {before['score']:4.1f}", before["answer"]),
            (f"after  {after['score']:4.1f}", after["answer"]),
            ("teacher", example["teacher"]),
        ):
            first, *rest = text.splitlines() or [""]
            out.print(f"  {name:<12} {first}", soft_wrap=True)
            for line in rest:
                out.print(f"  {'':<12} {line}", soft_wrap=True)
    out.print()
