"""Mix: draws a round's training set, with the share α of hard response tokens (or pairs) and tasks by their weights.

Unscored rows (`mix.fill`) count in neither pool.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.curriculum.difficulty import EASY, HARD, PROBE, UNSCORED, with_pool
from tapir_ray.curriculum.plan import Plan
from tapir_ray.curriculum.sampling import count_cells, cutoffs, take
from tapir_ray.curriculum.sources import probe_share
from tapir_ray.data.schemas import GENERATED_ROWS, HOLDOUT, OK, TRAINING, conform, pair_id, with_columns
from tapir_ray.steps.context import MIXED, Context
from tapir_ray.steps.row_ids import ids_of, without_ids
from tapir_ray.steps.score import probes, without_holdout
from tapir_ray.steps.train import student_after
from tapir_ray.transforms.count_tokens import count_tokens
from tapir_ray.transforms.mark_style import mark_style


def done(context: Context, round_number: int) -> bool:
    """Returns True if the round has its training set, mixed by an earlier attempt or imported."""
    return context.run.done(context.loop.training(round_number)) is not None


def mix(context: Context, round_number: int, plan: Plan) -> None:
    """Writes `rounds/NN/pool` (every usable row) and `rounds/NN/training` (the drawn rows).

    Scored rows are hard or easy by the plan; unreliable rows are in neither pool. Generated rows are in the pool of the
    row that they were drawn from, except the probes of the round, which are not drawn. With `mix.fill: unscored` the
    rows that were not scored this round are in the pool `unscored`.
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
        kept_out = sum(quota.probes.values())
        others = {"unscored": quota.unscored, "probes": kept_out}
        context.note_round(MIXED, round_number, alpha=quota.alpha, **{name: n for name, n in others.items() if n})
        # Before the table, which marks the round as mixed: a killed attempt must not leave a mix without its plan.
        run.write_json(tables.plan, {"plan": plan.model_dump(mode="json"), "mix": quota.model_dump(mode="json")})
        context.write(tables.training, rows, f"round {round_number} mix")
        if kept_out:
            context.progress.say(f"round {round_number} mix: {kept_out} generated rows are probes and not trained on")
        for warning in quota.warnings:
            context.progress.say(f"round {round_number} mix: {warning}")


CELLS = ["instruction_id", "pool", "task", "tokens", "status", "copy"]
"""Columns of a pool that decide the cell of a row and its size."""


def pools(context: Context, round_number: int, plan: Plan) -> ray.data.Dataset:
    """Returns the rows of all pools as the table `pool` has them, before their tokens are counted. Lazy."""
    config, tables = context.config, context.loop.round(round_number)
    scored = context.map(context.read(tables.scored), without_holdout)
    least, marks = config.judge.min_teacher_score, config.rewrite.mark
    scored = context.map(scored, with_pool, delta=plan.threshold, min_teacher_score=least, ceiling=plan.ceiling)
    generated = context.read(tables.generated)
    if marks:
        # Before the tokens are counted, since a mark makes a pair longer.
        scored, generated = context.map(scored, mark_style), context.map(generated, mark_style)
    scored = context.map(scored, hard_and_easy)
    share = probe_share(round_number, config)
    generated = context.map(generated, generated_pool, probe_share=share, random_seed=config.random_seed)
    rows = scored.union(generated)
    return rows.union(_unscored(context, round_number)) if config.mix.fill == "unscored" else rows


def _unscored(context: Context, round_number: int) -> ray.data.Dataset:
    """Returns the seed rows, and generated rows of earlier rounds, that are not in the round's scored table. Lazy."""
    loop = context.loop
    generated = [loop.round(before).generated for before in range(1, round_number)]
    rows = context.read(loop.instructions, *(table for table in generated if context.run.done(table)))
    rows = without_ids(context, rows, ids_of(context, [loop.round(round_number).scored]))
    rows = context.map(rows, mark_style) if context.config.rewrite.mark else rows
    return context.map(rows, unscored_pool)


def _ok(batch: pa.Table) -> pa.Table:
    return batch.filter(pc.equal(batch["status"], OK)).drop_columns(["copy"])


def hard_and_easy(batch: pa.Table) -> pa.Table:
    return conform(batch.filter(pc.is_in(batch["pool"], pa.array([HARD, EASY]))), TRAINING)


def generated_pool(batch: pa.Table, probe_share: float, random_seed: int) -> pa.Table:
    """Returns the ok generated rows in the pool of the row that they were drawn from; probes in one of their own.

    Rows without a pool, which only an import or a user's annotation can give, are hard.
    """
    batch = conform(batch.filter(pc.equal(batch["status"], OK)), GENERATED_ROWS)
    pool = pc.fill_null(batch["pool"], HARD)
    if probe_share:
        pool = pc.if_else(probes(batch, probe_share, random_seed), PROBE, pool)
    return conform(with_columns(batch, pool=pool), TRAINING)


def unscored_pool(batch: pa.Table) -> pa.Table:
    """Returns the ok rows that may be trained on, in the pool `unscored`."""
    usable = pc.and_(pc.equal(batch["status"], OK), pc.not_equal(batch["split"], HOLDOUT))
    batch = batch.filter(pc.and_(usable, pc.and_(pc.is_valid(batch["response"]), pc.is_valid(batch["task"]))))
    return conform(with_columns(batch, pool=UNSCORED), TRAINING)


def _pairs(batch: pa.Table) -> pa.Table:
    ids = zip(batch["instruction_id"].to_pylist(), batch["copy"].to_pylist(), strict=True)
    return with_columns(batch, pair_id=pa.array([pair_id(row_id, copy) for row_id, copy in ids], pa.string()))
