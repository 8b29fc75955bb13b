"""The last student on the holdout: the score after the last round, and which round's student is the result."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.context import Context, round_dir
from tapir_ray.records import HOLDOUT, ID, OK, SCORED, conform
from tapir_ray.steps.answer import answer_and_judge, answering
from tapir_ray.steps.train import student_after

TABLE = "evaluation/holdout"


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


def scored_table(context_rounds: int, round_number: int) -> str:
    """The table with the holdout's scores of the student as it is after a round."""
    return TABLE if round_number == context_rounds else f"{round_dir(round_number + 1)}/scored"


def held_out(context: Context) -> ray.data.Dataset:
    """The holdout's rows that have an answer to compare with, schema SCORED."""
    return context.map(context.read("seed/instructions"), _held)


def _count_held_out(context: Context) -> int:
    return sum(len(_held(pa.Table.from_batches([batch]))) for batch in context.run.scan("seed/instructions", HELD))


HELD = ["split", "status", "response"]


def _held(batch: pa.Table) -> pa.Table:
    keep = pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK))
    return conform(batch.filter(pc.and_(keep, pc.is_valid(batch["response"]))), SCORED)
