"""Reanswer: labels the shards of a dataset, then answers, rewrites and judges them, many shards in one pipeline."""

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
        ("answer_score", pa.float64()),
        ("other_response", pa.string()),
        ("new_score", pa.float64()),
        ("old_score", pa.float64()),
        ("preferred", pa.string()),
    ]
)
"""`other_response` is the answer left out: the file's, or the teacher's if `preferred` is `old`."""


def label_shards(context: Context, shards: Sequence[Shard]) -> list[Shard]:
    """Writes `SHARD/labelled`, the rows of each shard with their tasks; returns the shards over these tables."""
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
    with context.progress.stage("count the labelled shards"):
        return [own_table(run, shard, table) for shard in shards]


def reanswer(context: Context, shards: Sequence[Shard], chosen: Cutoffs | None) -> None:
    """Writes `SHARD/regenerated`: every row of the shards with its answers, status and reason, schema REGENERATED.

    `chosen` are the rows that rebalancing keeps; None keeps all.
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
    """Moves the answers that the teacher will replace from `response` to `other_response`; ok rows only.

    These are all answers if `replaces`, else the answers to tasks in `styled`, which are rewritten.
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
    """Context manager with one progress line for all shards; yields the shards whose table is not finished."""
    live, name = [shard for shard in shards if not context.run.done(table.of(shard.name))], table.name
    rows = sum(shard.rows for shard in shards)
    with context.progress.stage(label, name, rows), context.roles.replies.kept_apart(name):
        context.progress.keep(name, rows - sum(shard.rows for shard in live))
        yield live


def _unfinished(
    context: Context, live: Sequence[Shard], table: Table
) -> Iterator[tuple[ShardedTables, ray.data.Dataset]]:
    """Yields groups of shards to write together: their tables, and the rows that these lack.

    The replies of a group are removed once it is written, or the workers of every later group would read them.
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
        # Groups may differ from those of a killed attempt: replies of a started shard may be needed in a later group.
        begun -= {shard.name for shard in group}
        if not begun:
            context.roles.replies.forget()


def _write(context: Context, tables: ShardedTables, rows: ray.data.Dataset, asks: bool) -> None:
    """Runs the pipeline into its tables. Rows that cost requests (`asks`) are stored in small blocks."""
    config = context.config
    tables.write(
        rows,
        rows_per_block=config.resources.rows_per_block if asks else None,
        transform_cpus=context.transform_cpus,
        max_error_rate=config.max_error_rate,
        drained=context.roles.drained,
    )
