"""The last student on the holdout: the score after the last round, and which round's student is the result."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.context import ON_HOLDOUT, Context, checkpoint, round_dir
from tapir_ray.records import HOLDOUT, ID, OK, SCORED, conform, pair_id
from tapir_ray.run import Run
from tapir_ray.steps.answer import answer_and_judge, answering
from tapir_ray.steps.train import student_after
from tapir_ray.train.loop import RESULT_FILE

TABLE, LABELLED = "evaluation/holdout", "seed/instructions"
NO_TASK = "(no task)"


def holdout(context: Context) -> None:
    """`evaluation/holdout`: the last student's answers to the holdout and the judge's scores; empty without one."""
    run, last = context.run, context.config.curriculum.rounds
    if run.done(TABLE):
        return
    count = _count_held_out(context)
    if not count:
        run.publish(TABLE)
        return
    with context.stage("evaluate", last):
        rows = context.remaining(TABLE, held_out(context), ID)
        rows = answer_and_judge(context, rows, student_after(context, last), TABLE, count)
        with answering(context, TABLE):
            context.write(TABLE, rows, SCORED, "evaluate on the holdout", count, ID)
    note_holdout(context, TABLE, last)


def scored_table(context_rounds: int, round_number: int) -> str:
    """The table with the holdout's scores of the student as it is after a round."""
    return TABLE if round_number == context_rounds else f"{round_dir(round_number + 1)}/scored"


def note_holdout(context: Context, table: str, round_number: int) -> None:
    """Note the score on the holdout, in a scored table, of the student as it is after a round."""
    score = holdout_scores(context.run, table)
    if score["rows"]:
        context.note_round(ON_HOLDOUT, round_number, holdout_score=score["mean"], rows=score["rows"])


def holdout_scores(run: Run, table: str) -> dict[str, Any]:
    """Mean judge score of the student on the holdout rows of a scored table, in all and by task; None without rows.

    A round that began with the user's own training set was not scored: no rows either.
    """
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    columns = ["split", "task", "status", "student_score"]
    for batch in run.scan(table, columns) if run.done(table) else ():
        ok = pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK))
        for row in batch.filter(pc.and_(ok, pc.is_valid(batch["student_score"]))).to_pylist():
            sums[row["task"] or NO_TASK][0] += row["student_score"]
            sums[row["task"] or NO_TASK][1] += 1
    by_task = {name: round(total / n, 3) for name, (total, n) in sorted(sums.items())}
    total, n = (sum(column) for column in zip(*sums.values(), strict=True)) if sums else (0.0, 0)
    return {"mean": round(total / n, 3) if n else None, "rows": n, "by_task": by_task}


def tasks_of_holdout(run: Run) -> dict[str, str]:
    """The task of each pair of the holdout, by its id."""
    tasks: dict[str, str] = {}
    columns = ["instruction_id", "split", "task"]
    for batch in run.scan(LABELLED, columns) if run.done(LABELLED) else ():
        for row in batch.filter(pc.equal(batch["split"], HOLDOUT)).to_pylist():
            tasks[pair_id(row["instruction_id"], 0)] = row["task"] or NO_TASK
    return tasks


def holdout_loss_by_task(run: Run, round_number: int, tasks: dict[str, str]) -> dict[str, float]:
    """The student's loss on the holdout after a round (nats a response token) by task; empty where it was not trained.

    `tasks` are those of `tasks_of_holdout`.
    """
    result = f"{checkpoint(round_number)}/{RESULT_FILE}"
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    # A round that was trained before pairs were noted has none.
    pairs = run.read_json(result).get("holdout_pairs", {}) if run.exists(result) else {}
    for pair, (loss, tokens) in pairs.items():
        sums[tasks.get(pair, NO_TASK)][0] += loss
        sums[tasks.get(pair, NO_TASK)][1] += tokens
    return {task: round(loss / tokens, 4) for task, (loss, tokens) in sorted(sums.items()) if tokens}


def held_out(context: Context) -> ray.data.Dataset:
    """The holdout's rows that have an answer to compare with, schema SCORED."""
    return context.map(context.read(LABELLED), _held)


def _count_held_out(context: Context) -> int:
    return sum(len(_held(pa.Table.from_batches([batch]))) for batch in context.run.scan(LABELLED, HELD))


HELD = ["split", "status", "response"]


def _held(batch: pa.Table) -> pa.Table:
    keep = pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK))
    return conform(batch.filter(pc.and_(keep, pc.is_valid(batch["response"]))), SCORED)
