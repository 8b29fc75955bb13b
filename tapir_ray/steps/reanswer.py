"""Renew: the parts of a dataset labelled, and answered, rewritten and judged, many parts in one pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.curriculum.sampling import Cutoffs
from tapir_ray.data.schemas import FAILED, INSTRUCTIONS, OK, SOURCE_AND_ID, with_columns
from tapir_ray.run.sharded_tables import PART, PartTables
from tapir_ray.steps import classifier, rebalance
from tapir_ray.steps.context import Context
from tapir_ray.steps.shards import Part, groups, own_table, read
from tapir_ray.transforms.prefer import prefer
from tapir_ray.transforms.respond import respond

LABELLED, RENEWED = "labelled", "regenerated"
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


def label_parts(context: Context, parts: Sequence[Part]) -> list[Part]:
    """`PART/labelled`: the rows of the parts with their tasks; returns the parts as they lie there."""
    from tapir_ray.transforms.classify import classify
    from tapir_ray.transforms.label import label

    config, run = context.config, context.run
    with_part = pa.schema([*INSTRUCTIONS, PART])
    with context.stage("classify", 0), _shown(context, parts, LABELLED, "classify") as live:
        for tables, rows in _unfinished(context, live, LABELLED):
            if config.classify.by == "deberta":
                rows = classify(rows, classifier.model(context), config)
            else:
                rows = label(rows, config, context.roles, list(context.taxonomy.labels), with_part)
            _write(context, tables, rows, INSTRUCTIONS, asks=True)
    with context.progress.stage("look into the labelled parts"):
        return [own_table(run, part, LABELLED) for part in parts]


def renew(context: Context, parts: Sequence[Part], chosen: Cutoffs | None) -> None:
    """`PART/regenerated`: the rows of the parts with what has become of them, schema REGENERATED.

    Of a task those stay that are `chosen`, all of them for None.
    """
    config = context.config
    settings = config.regenerate
    assert settings is not None
    replaces, rewrites = config.seed_data.responses == "replace", settings.does("rewrite")
    styles: Mapping[str, str] = context.taxonomy.styles if rewrites else {}
    with_part = pa.schema([*REGENERATED, PART])
    with context.stage("renew", 0), _shown(context, parts, RENEWED, "renew") as live:
        for tables, rows in _unfinished(context, live, RENEWED):
            if chosen is not None:
                rows = context.map(rows, rebalance.mark_rest, chosen=chosen)
            rows = context.map(rows, set_aside, replaces=replaces, styled=list(styles))
            if settings.answers:
                draft = None if replaces else "other_response"
                rows = respond(rows, config, context.roles, styles, with_part, draft)
            if settings.does("judge"):
                rows = prefer(rows, config, context.roles, with_part)
            _write(context, tables, rows, REGENERATED, settings.answers)


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
def _shown(context: Context, parts: Sequence[Part], name: str, label: str) -> Iterator[list[Part]]:
    """One progress line for the tables `PART/NAME` of all parts; the context gives the parts that lack theirs."""
    live = [part for part in parts if not context.run.done(f"{part.name}/{name}")]
    rows = sum(part.rows for part in parts)
    with context.progress.stage(label, name, rows), context.roles.replies.kept_apart(name):
        context.progress.keep(name, rows - sum(part.rows for part in live))
        yield live


def _unfinished(context: Context, live: Sequence[Part], name: str) -> Iterator[tuple[PartTables, ray.data.Dataset]]:
    """The tables `PART/NAME` that are to be written together, and the rows that they lack.

    Once they are written their replies are removed: else the workers of every group would read those of all before.
    """
    run, settings, cpus = context.run, context.config.regenerate, context.stage_cpus
    assert settings is not None
    labelled = name == RENEWED and settings.does("classify")
    begun = {part.name for part in live if run.exists(f"{part.name}/{name}")}
    for group in groups(live, settings.parts.at_once):
        carried = {part.name: run.manifest(f"{part.name}/{LABELLED}").count(FAILED) for part in group if labelled}
        with context.progress.stage(f"open {group[0].name} to {group[-1].name}"):
            tables = PartTables(run, name, {part.name: part.rows for part in group}, SOURCE_AND_ID, carried)
        yield tables, tables.remaining(read(run.fs, group, cpus), cpus)
        # A part that was begun may be in a later group than it was: its replies are still needed.
        begun -= {part.name for part in group}
        if not begun:
            context.roles.replies.forget()


def _write(context: Context, tables: PartTables, rows: ray.data.Dataset, schema: pa.Schema, asks: bool) -> None:
    """Run the pipeline into its tables; rows that were asked for are there for good a few at a time."""
    config = context.config
    tables.write(
        rows,
        schema,
        rows_per_part=config.resources.rows_per_part if asks else None,
        stage_cpus=context.stage_cpus,
        max_error_rate=config.max_error_rate,
        drained=context.roles.drained,
    )
