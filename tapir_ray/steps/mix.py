"""Mix: draws a round's training set, with the share α of hard response tokens (or pairs) and tasks by their weights."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.curriculum.difficulty import EASY, HARD, with_pool
from tapir_ray.curriculum.plan import Plan
from tapir_ray.curriculum.sampling import count_cells, cutoffs, take
from tapir_ray.data.schemas import OK, TRAINING, conform, pair_id, with_columns
from tapir_ray.steps.context import MIXED, Context
from tapir_ray.steps.score import without_holdout
from tapir_ray.steps.train import student_after
from tapir_ray.transforms.count_tokens import count_tokens


def done(context: Context, round_number: int) -> bool:
    """Returns True if the round has its training set, mixed by an earlier attempt or imported."""
    return context.run.done(context.loop.training(round_number)) is not None


def mix(context: Context, round_number: int, plan: Plan) -> None:
    """Writes `rounds/NN/pool` (every usable row) and `rounds/NN/training` (the drawn rows).

    Generated rows count as hard. Scored rows are hard from δ on and easy below it; unreliable rows are in neither pool.
    """
    run, config, cpus = context.run, context.config, context.transform_cpus
    tables = context.loop.round(round_number)
    with context.stage("mix", round_number):
        if not run.done(tables.pool):
            model = student_after(context, round_number - 1)
            rows = count_tokens(pools(context, round_number, plan), model, config.student, config.train, cpus)
            context.write(tables.pool, rows, f"round {round_number} pools")
        cells = context.map(context.read(tables.pool, columns=CELLS), _ok)
        found = count_cells(cells, config.random_seed, (round_number, "mix"), "tokens", cpus)
        quota = context.curriculum.plan_mix(round_number, found.capacities)
        chosen = cutoffs(cells, found, quota.table, "size" if config.mix.unit == "tokens" else "rows", cpus)
        rows = context.map(context.read(tables.pool), _ok)
        rows = context.map(take(rows, chosen, cpus), _pairs)
        context.note_round(MIXED, round_number, alpha=quota.alpha)
        # Before the table, which marks the round as mixed: a killed attempt must not leave a mix without its plan.
        run.write_json(tables.plan, {"plan": plan.model_dump(mode="json"), "mix": quota.model_dump(mode="json")})
        context.write(tables.training, rows, f"round {round_number} mix")
        for warning in quota.warnings:
            context.progress.say(f"round {round_number} mix: {warning}")


CELLS = ["instruction_id", "pool", "task", "tokens", "status", "copy"]
"""Columns of a pool that decide the cell of a row and its size."""


def pools(context: Context, round_number: int, plan: Plan) -> ray.data.Dataset:
    """Returns the rows of both pools as the table `pool` has them, before their tokens are counted. Lazy."""
    tables = context.loop.round(round_number)
    scored = context.map(context.read(tables.scored), without_holdout)
    scored = context.map(
        scored, with_pool, delta=plan.threshold, min_teacher_score=context.config.judge.min_teacher_score
    )
    scored = context.map(scored, _hard_and_easy)
    return scored.union(context.map(context.read(tables.generated), _generated_pool))


def _ok(batch: pa.Table) -> pa.Table:
    return batch.filter(pc.equal(batch["status"], OK)).drop_columns(["copy"])


def _hard_and_easy(batch: pa.Table) -> pa.Table:
    return conform(batch.filter(pc.is_in(batch["pool"], pa.array([HARD, EASY]))), TRAINING)


def _generated_pool(batch: pa.Table) -> pa.Table:
    batch = batch.filter(pc.equal(batch["status"], OK))
    return conform(with_columns(batch, pool=HARD), TRAINING)


def _pairs(batch: pa.Table) -> pa.Table:
    ids = zip(batch["instruction_id"].to_pylist(), batch["copy"].to_pylist(), strict=True)
    return with_columns(batch, pair_id=pa.array([pair_id(row_id, copy) for row_id, copy in ids], pa.string()))
