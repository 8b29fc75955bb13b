"""The last student on the holdout, and the holdout's loss by task."""

from __future__ import annotations

from collections import defaultdict

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.data.schemas import HOLDOUT, ID, OK, SCORED, conform, pair_id
from tapir_ray.run.layout import checkpoint
from tapir_ray.run.run import Run
from tapir_ray.steps.answer import answer_and_judge, answering
from tapir_ray.steps.context import ON_HOLDOUT, Context
from tapir_ray.steps.holdout_scores import NO_TASK, TABLE, reported_score
from tapir_ray.steps.train import student_after
from tapir_ray.train.loop import RESULT_FILE

LABELLED = "seed/instructions"


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


def note_holdout(context: Context, table: str, round_number: int) -> None:
    """Note the score on the reporting half of the holdout of the student as it is after a round."""
    config = context.config
    score = reported_score(context.run, table, config.random_seed, config.holdout.select_share)
    if score["rows"]:
        context.note_round(ON_HOLDOUT, round_number, holdout_score=score["mean"], rows=score["rows"])


def tasks_of_holdout(run: Run) -> dict[str, str]:
    """The task of each pair of the holdout, by its id."""
    tasks: dict[str, str] = {}
    columns = ["instruction_id", "split", "task"]
    for batch in run.scan(LABELLED, columns) if run.done(LABELLED) else ():
        for row in batch.filter(pc.equal(batch["split"], HOLDOUT)).to_pylist():
            tasks[pair_id(row["instruction_id"], 0)] = row["task"] or NO_TASK
    return tasks


def holdout_loss_by_task(run: Run, round_number: int, tasks: dict[str, str], before: bool = False) -> dict[str, float]:
    """The student's loss on the holdout after a round's training, or `before` it (nats a response token), by task.

    `tasks` are those of `tasks_of_holdout`. Empty if the round was not trained.
    """
    result = f"{checkpoint(round_number)}/{RESULT_FILE}"
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    # A round that was trained before pairs were noted has none.
    noted = run.find_json(result) or {}
    for pair, (loss, tokens) in noted.get("holdout_pairs_before" if before else "holdout_pairs", {}).items():
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
