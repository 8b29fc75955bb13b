"""Renew: the shards of a dataset labelled, and answered, rewritten and judged, many shards in one pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.curriculum.sampling import Cutoffs
from tapir_ray.data.schemas import FAILED, INSTRUCTIONS, OK, with_columns
from tapir_ray.run.layout import Table
from tapir_ray.run.sharded_tables import SHARD, ShardedTables
from tapir_ray.steps import classifier, rebalance
from tapir_ray.steps.context import Context
from tapir_ray.steps.shards import Shard, groups, own_table, read
from tapir_ray.transforms.prefer import prefer
from tapir_ray.transforms.respond import respond

REGENERATED = pa.schema(
    [
        *INSTRUCTIONS,
        ("style", pa.string()),
        ("answer_score", pa.float64()),
        ("other_response", pa.string()),
        ("new_score", pa.float64()),
        ("old_score", pa.float64()),
        ("preferred", pa.string()),
    ]
)
"""`other_response` is the file's answer where the teacher gave another; where `preferred` is `old`, the teacher's."""


def label_shards(context: Context, shards: Sequence[Shard]) -> list[Shard]:
    """`labelled` of each shard: the rows of the shards with their tasks; returns the shards as they lie there."""
    from tapir_ray.transforms.classify import classify
    from tapir_ray.transforms.label import label

    config, run, table = context.config, context.run, context.shards.labelled
    with_shard = pa.schema([*table.row_schema, SHARD])
    with context.stage("classify", 0), _shown(context, shards, table, "classify") as live:
        for tables, rows in _unfinished(context, live, table):
            if config.classify.by == "deberta":
                rows = classify(rows, classifier.model(context), config)
            else:
                rows = label(rows, config, context.roles, list(context.taxonomy.labels), with_shard)
            _write(context, tables, rows, asks=True)
    with context.progress.stage("look into the labelled shards"):
        return [own_table(run, shard, table) for shard in shards]


def reanswer(context: Context, shards: Sequence[Shard], chosen: Cutoffs | None) -> None:
    """`SHARD/regenerated`: the rows of the shards with what has become of them, schema REGENERATED.

    Of a task those stay that are `chosen`, all of them for None.
    """
    config, table = context.config, context.shards.regenerated
    settings = config.regenerate
    assert settings is not None
    replaces, rewrites = config.seed_data.responses == "replace", settings.does("rewrite")
    styles: Mapping[str, str] = context.taxonomy.styles if rewrites else {}
    with_shard = pa.schema([*table.row_schema, SHARD])
    with context.stage("reanswer", 0), _shown(context, shards, table, "reanswer") as live:
        for tables, rows in _unfinished(context, live, table):
            if chosen is not None:
                rows = context.map(rows, rebalance.mark_rest, chosen=chosen)
            rows = context.map(rows, set_aside, replaces=replaces, styled=list(styles))
            if settings.answers:
                draft = None if replaces else "other_response"
                rows = respond(rows, config, context.roles, styles, with_shard, draft)
            if settings.does("judge"):
                rows = prefer(rows, config, context.roles, with_shard)
            _write(context, tables, rows, settings.answers)


def set_aside(batch: pa.Table, replaces: bool, styled: Sequence[str]) -> pa.Table:
    """The batch with the answers that the teacher is to replace in `other_response`, of ok rows alone.

    It replaces all of them, or rewrites those to tasks that are `styled`.
    """
    redone = pc.equal(batch["status"], OK)
    if not replaces:
        redone = pc.and_(redone, pc.is_in(batch["task"], pa.array(styled, pa.string())))
    nothing = pa.scalar(None, pa.string())
    return with_columns(
        batch,
        response=pc.if_else(redone, nothing, batch["response"]),
        other_response=pc.if_else(redone, batch["response"], nothing),
    )


@contextmanager
def _shown(context: Context, shards: Sequence[Shard], table: Table, label: str) -> Iterator[list[Shard]]:
    """One progress line for the tables of all shards; the context gives the shards that lack theirs."""
    live, name = [shard for shard in shards if not context.run.done(table.of(shard.name))], table.name
    rows = sum(shard.rows for shard in shards)
    with context.progress.stage(label, name, rows), context.roles.replies.kept_apart(name):
        context.progress.keep(name, rows - sum(shard.rows for shard in live))
        yield live


def _unfinished(
    context: Context, live: Sequence[Shard], table: Table
) -> Iterator[tuple[ShardedTables, ray.data.Dataset]]:
    """The tables of the shards that are to be written together, and the rows that they lack.

    Once they are written their replies are removed: else the workers of every group would read those of all before.
    """
    run, settings, cpus = context.run, context.config.regenerate, context.transform_cpus
    assert settings is not None
    labelled = context.shards.labelled
    follows = table == context.shards.regenerated and settings.does("classify")
    begun = {shard.name for shard in live if run.exists(table.of(shard.name).path)}
    for group in groups(live, settings.shards.at_once):
        carried = {shard.name: run.manifest(labelled.of(shard.name)).count(FAILED) for shard in group if follows}
        with context.progress.stage(f"open {group[0].name} to {group[-1].name}"):
            tables = ShardedTables(run, table, {shard.name: shard.rows for shard in group}, carried)
        yield tables, tables.remaining(read(run.fs, group, cpus), cpus)
        # A shard that was begun may be in a later group than it was: its replies are still needed.
        begun -= {shard.name for shard in group}
        if not begun:
            context.roles.replies.forget()


def _write(context: Context, tables: ShardedTables, rows: ray.data.Dataset, asks: bool) -> None:
    """Run the pipeline into its tables; rows that were asked for are there for good a few at a time."""
    config = context.config
    tables.write(
        rows,
        rows_per_block=config.resources.rows_per_block if asks else None,
        transform_cpus=context.transform_cpus,
        max_error_rate=config.max_error_rate,
        drained=context.roles.drained,
    )
