"""Rows of one table that are not in others, by instruction id: rows that no training set had, or that nobody scored."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from tapir_ray.data.schemas import ID, OK
from tapir_ray.run.layout import Table
from tapir_ray.run.resume import without
from tapir_ray.steps.context import Context


def trained_ids(context: Context, round_number: int) -> pa.Array:
    """Returns the ids of the rows in the training sets before a round: the initial SFT's and those of earlier rounds.

    They are sorted, each once; the driver holds 32 bytes for each.
    """
    tables = [context.loop.training(before) for before in range(round_number)]
    return ids_of(context, [table for table in tables if context.run.done(table)], status=OK)


def annotated_ids(context: Context, round_number: int) -> pa.Array:
    """Returns the ids of the rows that were annotated before a round, usable or not, and of the initial SFT's rows."""
    loop = context.elad
    tables = [loop.sft_training, *(loop.elad_round(before).annotated for before in range(1, round_number))]
    return ids_of(context, [table for table in tables if context.run.done(table)])


def ids_of(context: Context, tables: Sequence[Table], status: str | None = None) -> pa.Array:
    """Returns the ids of all rows of the tables, or of those with a status, sorted and each once."""
    found = [pa.array([], pa.string())]
    for table in tables:
        for batch in context.run.scan(table, ["instruction_id", "status"]):
            batch = batch if status is None else batch.filter(pc.equal(batch["status"], status))
            found.append(batch["instruction_id"].cast(pa.string()))
    ids = pc.drop_null(pc.unique(pa.concat_arrays(found)))
    return ids.take(pc.sort_indices(ids))


def without_ids(context: Context, rows: ray.data.Dataset, ids: pa.Array) -> ray.data.Dataset:
    """Returns the rows whose id is not among `ids`, which are sorted; lazy."""
    return without(rows, ray.put(ids), ID, context.transform_cpus) if len(ids) else rows
