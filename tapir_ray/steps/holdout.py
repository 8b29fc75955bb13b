"""Holdout: rows split off by hash before anything else, in equal numbers from each stratum.

Only the holdout measures whether a student is better. The hash is of `conversation_id`, so that all turns of a
conversation are on the same side.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.curriculum.sampling import Cutoffs, count_cells, cutoffs, take_table
from tapir_ray.data.schemas import HOLDOUT, OK, with_columns
from tapir_ray.errors import InputError
from tapir_ray.steps import decontaminate, seed
from tapir_ray.steps.context import Context

CELL = "holdout"


def split_off(context: Context) -> None:
    """Writes `seed/split` (holdout rows marked) and `seed/ingested` (seed rows that overlap with them filtered).

    Raises InputError for a stratum column that the seed data does not have.
    """
    run, layout = context.run, context.loop
    expected = run.manifest(layout.read).rows
    if not run.done(layout.split):
        rows = with_holdout(context, seed.without_repeats(context))
        context.write(layout.split, rows, "split off the holdout", expected)
    rows = decontaminate.filter_rows(context, context.read(layout.split))
    context.write(layout.ingested, rows, "check the overlap", expected)


def with_holdout(context: Context, rows: ray.data.Dataset) -> ray.data.Dataset:
    """Marks the rows of the holdout in `split`; lazy, except that the strata are counted at once.

    Raises InputError for a stratum column that the rows do not have.
    """
    chosen = _choose(context, rows)
    return context.map(rows, _mark, columns=context.config.holdout.stratify_by, chosen=chosen)


def _choose(context: Context, rows: ray.data.Dataset) -> Cutoffs:
    settings, columns = context.config.holdout, context.config.holdout.stratify_by
    strata = context.map(rows, with_strata, columns=columns)
    counts = count_cells(strata, context.config.random_seed, ("holdout",), transform_cpus=context.transform_cpus)
    found = counts.capacities
    if not found and columns:
        raise InputError(
            f"holdout.stratify_by {columns}: no row of the seed data has these columns; name other columns, or set []"
        )
    if not found:
        raise InputError(f"holdout: every row of the seed data is filtered; the counts of {context.loop.read} say why")
    # Rounded up, so that strata which are large enough together give at least `holdout.rows`.
    wanted = -(-settings.rows // len(found))
    quota = {cell: min(wanted, int(rows * settings.max_share)) for cell, (rows, _) in found.items()}
    return cutoffs(strata, counts, quota, transform_cpus=context.transform_cpus)


def with_strata(batch: pa.Table, columns: list[str]) -> pa.Table:
    """Returns the batch with the stratum of every ok row in `pool` and `task`; null for rows that cannot be drawn.

    If the batch has the column `conversation_id`, it replaces `instruction_id`.
    """
    usable = pc.equal(batch["status"], OK)
    names = []
    for meta, ok in zip(batch["meta"].to_pylist(), usable.to_pylist(), strict=True):
        values = json.loads(meta) if ok and meta else {}
        known = ok and all(column in values for column in columns)
        names.append(json.dumps([values[column] for column in columns]) if known else None)
    strata = pa.array(names, pa.string())
    drawn_by = batch["conversation_id" if "conversation_id" in batch.column_names else "instruction_id"]
    pool = pc.if_else(pc.is_valid(strata), CELL, None)
    return with_columns(batch, instruction_id=drawn_by, task=strata, pool=pool)


def _mark(batch: pa.Table, columns: list[str], chosen: Cutoffs) -> pa.Table:
    # The column `row` carries each row's place through the draw: the turns of a conversation are drawn by the same id.
    rows = np.arange(len(batch))
    drawn = take_table(with_columns(with_strata(batch, columns), row=pa.array(rows)), chosen)["row"]
    return with_columns(batch, split=pc.if_else(pa.array(np.isin(rows, drawn)), HOLDOUT, batch["split"]))
