"""Further parents of a draw: rows of its pool and task that the teacher is shown next to the drawn row.

Each pool and task offers the CANDIDATES rows with the smallest keys; a draw shows those with the smallest hashes of
their id and its own. So every start and any number of blocks give the same examples, and the driver holds no table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import ray

from tapir_ray.curriculum.quotas import Cell
from tapir_ray.curriculum.sampling import count_cells, cutoffs, take
from tapir_ray.data.schemas import conform, order_key, text_of
from tapir_ray.steps.context import Context

CANDIDATES = 128
"""Rows of a pool and task that its examples are chosen from; the driver holds their texts."""

TEXTS = pa.schema(
    [("instruction_id", pa.string()), ("pool", pa.string()), ("task", pa.string()), ("text", pa.string())]
)


def show_examples(
    context: Context, draws: ray.data.Dataset, rows: ray.data.Dataset, salt: tuple[object, ...]
) -> ray.data.Dataset:
    """Returns `draws` with `expand.examples` − 1 other rows of their pool and task, which are among `rows`.

    `rows` has the columns `instruction_id`, `pool`, `task` and `messages`.
    """
    offered = (ray.put(candidates(context, rows, salt)),)
    number, seed = context.config.expand.examples - 1, context.config.random_seed
    return context.map(draws, with_examples, offered=offered, number=number, random_seed=seed)


def candidates(context: Context, rows: ray.data.Dataset, salt: tuple[object, ...]) -> pa.Table:
    """Returns up to CANDIDATES rows (TEXTS) of every pool and task of `rows`; `text` is without system turns."""
    seed, cpus = context.config.random_seed, context.transform_cpus
    found = count_cells(rows, seed, (*salt, "examples"), transform_cpus=cpus)
    quota = {cell: min(number, CANDIDATES) for cell, (number, _) in found.capacities.items()}
    chosen = cutoffs(rows, found, quota, transform_cpus=cpus)
    shown = context.map(take(rows, chosen, cpus), _texts)
    batches: Iterable[Any] = shown.iter_batches(batch_format="pyarrow", batch_size=None)
    return pa.concat_tables([TEXTS.empty_table(), *(batch.cast(TEXTS) for batch in batches)])


def with_examples(batch: pa.Table, offered: tuple[ray.ObjectRef], number: int, random_seed: int) -> pa.Table:
    """Returns draws with up to `number` other rows of their pool and task in `examples` and `example_ids`.

    `offered` refers to the table of `candidates`; in a tuple, as Ray may replace a bare reference by its
    table. A cell with fewer other rows gives as many as it has.
    """
    cells: dict[Cell, list[tuple[str, str]]] = defaultdict(list)
    for row in ray.get(offered[0]).to_pylist():
        cells[row["pool"], row["task"]].append((row["instruction_id"], row["text"]))
    found = []
    for draw, parent, pool, task in zip(
        *(batch[name].to_pylist() for name in ("draw_id", "parent_id", "pool", "task")), strict=True
    ):
        others = [one for one in cells[pool, task] if one[0] != parent]
        found.append(sorted(others, key=lambda one: order_key(f"{draw} {one[0]}", random_seed, "examples"))[:number])
    texts = pa.list_(pa.string())
    for name, place in (("example_ids", 0), ("examples", 1)):
        column = pa.array([[one[place] for one in row] for row in found], texts)
        batch = batch.set_column(batch.schema.get_field_index(name), name, column)
    return batch


def _texts(batch: pa.Table) -> pa.Table:
    turns = batch["messages"].to_pylist()
    texts = [text_of([turn for turn in row if turn["role"] != "system"]) for row in turns]
    return conform(batch.append_column("text", pa.array(texts, pa.string())), TEXTS)
