"""The last student on the holdout, and the holdout's loss by task."""

from __future__ import annotations

from collections import defaultdict

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.data.schemas import HOLDOUT, OK, SCORED, conform, pair_id
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run
from tapir_ray.steps.answer import answer_and_judge, answering
from tapir_ray.steps.context import ON_HOLDOUT, Context
from tapir_ray.steps.holdout_scores import NO_TASK, reported_score
from tapir_ray.steps.train import student_after


def holdout(context: Context) -> None:
    """`evaluation/holdout`: the last student's answers to the holdout and the judge's scores; empty without one."""
    run, last, table = context.run, context.config.curriculum.rounds, context.loop.evaluation
    if run.done(table):
        return
    count = _count_held_out(context)
    if not count:
        run.publish(table)
        return
    with context.stage("evaluate", last):
        rows = context.remaining(table, held_out(context))
        rows = answer_and_judge(context, rows, student_after(context, last), table, count)
        with answering(context, table):
            context.write(table, rows, "evaluate on the holdout", count)
    note_holdout(context, table, last)


def note_holdout(context: Context, table: Table, round_number: int) -> None:
    """Note the score on the reporting half of the holdout of the student as it is after a round."""
    config = context.config
    score = reported_score(context.run, table, config.random_seed, config.holdout.select_share)
    if score["rows"]:
        context.note_round(ON_HOLDOUT, round_number, holdout_score=score["mean"], rows=score["rows"])


def tasks_of_holdout(run: Run, layout: LoopLayout) -> dict[str, str]:
    """The task of each pair of the holdout, by its id."""
    tasks: dict[str, str] = {}
    columns = ["instruction_id", "split", "task"]
    labelled = layout.instructions
    for batch in run.scan(labelled, columns) if run.done(labelled) else ():
        for row in batch.filter(pc.equal(batch["split"], HOLDOUT)).to_pylist():
            tasks[pair_id(row["instruction_id"], 0)] = row["task"] or NO_TASK
    return tasks


def holdout_loss_by_task(run: Run, student: Table, tasks: dict[str, str], before: bool = False) -> dict[str, float]:
    """The holdout's loss of a trained student, or of it `before` its training (nats a response token), by task.

    `tasks` are those of `tasks_of_holdout`. Empty if it was not trained.
    """
    from tapir_ray.train.loop import RESULT_FILE

    result = f"{student}/{RESULT_FILE}"
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    # A round that was trained before pairs were noted has none.
    noted = run.find_json(result) or {}
    for pair, (loss, tokens) in noted.get("holdout_pairs_before" if before else "holdout_pairs", {}).items():
        sums[tasks.get(pair, NO_TASK)][0] += loss
        sums[tasks.get(pair, NO_TASK)][1] += tokens
    return {task: round(loss / tokens, 4) for task, (loss, tokens) in sorted(sums.items()) if tokens}


def held_out(context: Context) -> ray.data.Dataset:
    """The holdout's rows that have an answer to compare with, schema SCORED."""
    return context.map(context.read(context.loop.instructions), _held)


def _count_held_out(context: Context) -> int:
    batches = context.run.scan(context.loop.instructions, HELD)
    return sum(len(_held(pa.Table.from_batches([batch]))) for batch in batches)


HELD = ["split", "status", "response"]


def _held(batch: pa.Table) -> pa.Table:
    keep = pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK))
    return conform(batch.filter(pc.and_(keep, pc.is_valid(batch["response"]))), SCORED)
