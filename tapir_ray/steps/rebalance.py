"""Rebalance: counts the tasks over all shards, then keeps a quota of each task, the rows of lowest hash.

The hash depends on a row's id and the random seed alone. So the same rows are kept in any order, without a shuffle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.curriculum.quotas import apportion
from tapir_ray.curriculum.sampling import Cut, Cutoffs, count_cells, cutoffs, take_table
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.data.schemas import OK, marked, with_columns
from tapir_ray.run.layout import Table
from tapir_ray.steps.context import Context

FILE = "balance.json"
REBALANCED, NO_TASK, NO_WEIGHT = "rebalanced", "no_task", "no_weight"
"""Reasons of filtered rows: beyond the quota of their task, without a task, with a task without a weight. `rebalanced`
is also the name of the pool that rows are drawn from."""
SALT = ("rebalance",)


def balance(context: Context, tables: Sequence[Table]) -> Cutoffs | None:
    """Returns the rows of the tables to keep; None if rebalancing is off. Decided once, then read from `balance.json`.

    Raises StageError if no task of the rows has a weight.
    """
    run, config, cpus = context.run, context.config, context.transform_cpus
    if config.regenerate is None or config.regenerate.balanced_rows is None:
        return None
    if run.find_json(FILE) is None:
        with context.stage("rebalance", 0):
            rows = context.map(context.read(*tables, columns=["instruction_id", "task", "status"]), with_cells)
            with context.progress.stage("count the tasks"):
                counts = count_cells(rows, config.random_seed, SALT, transform_cpus=cpus)
            found = {task: n for (_, task), (n, _) in counts.capacities.items()}
            quota = shares(found, config.regenerate.balanced_rows, context.taxonomy)
            cells = {(REBALANCED, task): n for task, n in quota.items()}
            with context.progress.stage("choose the rows"):
                chosen = cutoffs(rows, counts, cells, transform_cpus=cpus)
            last = {task: cut.last.hex() for (_, task), cut in chosen.cells.items() if cut.last is not None}
            run.write_json(FILE, {"rows": found, "quota": quota, "last": last})
            if (left := sum(quota.values())) < config.regenerate.balanced_rows:
                context.progress.say(
                    f"rebalance: only {left} rows have a task with a weight, fewer than the "
                    f"{config.regenerate.balanced_rows} asked for"
                )
    return stored(run.read_json(FILE), config.random_seed)


def shares(found: Mapping[str, int], rows: int, taxonomy: Taxonomy) -> dict[str, int]:
    """Returns the quota of each task: `rows` or fewer in all, by the weights, at most the rows `found`.

    Raises StageError if no task has a weight.
    """
    weights = taxonomy.effective_weights(found)
    room = {task: found[task] for task in weights}
    return apportion(min(rows, sum(room.values())), room, weights)


def stored(made: Mapping[str, Mapping[str, object]], random_seed: int) -> Cutoffs:
    """Returns the cut of every task from the content of `balance.json`: all of its rows, or those up to a hash."""
    cells = {}
    for task, count in made["quota"].items():
        last = made["last"].get(task)
        # A quota of all rows is one full copy; a smaller one is the rows up to the hash `last`.
        cells[REBALANCED, task] = Cut(int(count == made["rows"][task]), bytes.fromhex(str(last)) if last else None)
    return Cutoffs(cells, random_seed, SALT)


def with_cells(batch: pa.Table) -> pa.Table:
    """Returns the batch with the column `pool`, null for rows that are not ok or have no task."""
    drawn_from = pc.and_(pc.equal(batch["status"], OK), pc.is_valid(batch["task"]))
    return with_columns(batch, pool=pc.if_else(drawn_from, REBALANCED, None))


def mark_rest(batch: pa.Table, chosen: Cutoffs) -> pa.Table:
    """Marks the ok rows that are not drawn as filtered: `no_task`, `no_weight` or `rebalanced`."""
    rows = np.arange(len(batch))
    drawn = take_table(with_columns(with_cells(batch), row=pa.array(rows)), chosen)["row"]
    weighed = pa.array([task for _, task in chosen.cells], pa.string())
    batch = marked(batch, pc.is_null(batch["task"]), NO_TASK)
    batch = marked(batch, pc.invert(pc.is_in(batch["task"], value_set=weighed)), NO_WEIGHT)
    return marked(batch, pa.array(~np.isin(rows, drawn)), REBALANCED)
