"""A dataset produced anew, without training: filtered, labelled, rebalanced, answered and judged, shard by shard.

What depends on all rows (repeats, the tasks' quotas) is done over all shards, the rest in shards of their own tables.
As in `distill.py` a table that is there is not made again, and a shard that was begun goes on at its rows.
"""

from __future__ import annotations

from typing import Any

from tapir_ray.run import layout
from tapir_ray.steps import dataset, reanswer
from tapir_ray.steps.clean import CLEAN, clean
from tapir_ray.steps.context import Context
from tapir_ray.steps.rebalance import balance
from tapir_ray.steps.shards import cut_table


def regenerate(context: Context) -> dict[str, Any]:
    """Do the operations of `config.regenerate`; returns the summary.

    Leaves `shards/NNNNN/regenerated`, every row read with what has become of it, and `dataset/`, the rows that are ok,
    with a card. Raises InputError for data that cannot be used, StageError and Stopped as the steps do.
    """
    settings = context.config.regenerate
    assert settings is not None
    clean(context)  # all rows: repeats, near-duplicates and overlaps filtered
    with context.progress.stage("cut into shards"):
        shards, tables = cut_table(context.run, CLEAN, settings.shards.rows), [CLEAN]
    if settings.does("classify"):
        shards = reanswer.label_shards(context, shards)
        tables = [f"{shard.name}/{layout.LABELLED}" for shard in shards]
    chosen = balance(context, tables)  # how many of each task, and by hash which
    reanswer.reanswer(context, shards, chosen)  # answered, rewritten, and the better answer kept
    return dataset.publish(context, shards)
