"""`--from STAGE=PATH`: a table of the user's replaces the one that a stage of round 1 begins with."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import ray.data

from tapir_ray.data.chat_turns import ASSISTANT
from tapir_ray.data.files import list_files
from tapir_ray.data.readers import read_raw
from tapir_ray.data.schemas import GENERATED_ROWS, INSTRUCTIONS
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError
from tapir_ray.run.layout import Layout, Table
from tapir_ray.steps import decontaminate, files_left_out, holdout, round_zero, seed, shares
from tapir_ray.steps.contamination_list import CONTAMINATION, list_contamination
from tapir_ray.steps.context import Context
from tapir_ray.transforms.filters import filter_generated, filter_read
from tapir_ray.transforms.ingest import duplicate_positions, mark_duplicates
from tapir_ray.transforms.user_rows import HAS_SPLIT, read_own_rows, with_places

FROM = "imported_from"
"""Key in the manifest of an imported table: the absolute path or URI of its rows."""


def is_seed(table: Table) -> bool:
    """Returns True if the rows replace the seed data, with or without tasks."""
    return table.schema is INSTRUCTIONS


def own_table(start: str, layout: Layout) -> tuple[str, str] | None:
    """Returns (stage, path) of `STAGE=PATH`; None for an empty string.

    Raises InputError for a stage that cannot begin with a table, a missing path, or rows without a column that the
    stage needs.
    """
    if not start:
        return None
    stage, _, path = start.partition("=")
    if stage not in layout.begins or not path:
        raise InputError(f"--from {start}: write STAGE=PATH; the stages are {', '.join(layout.begins)}")
    if not is_remote(path) and not Path(path).exists():
        raise InputError(f"--from {start}: there is no file or folder {path}")
    # The first row is read before Ray starts, so that a missing column is reported at once.
    needed = layout.begins[stage].needed
    for _, row in islice(read_raw(list_files(path, f"--from {stage}:", "all")[0]), 1):
        missing = [name for name in needed if isinstance(row, dict) and name not in row]
        if isinstance(row, dict) and _ends_with_answer(row.get("messages")):
            missing = [name for name in missing if name != "response"]
        if missing:
            raise InputError(
                f"--from {start}: the rows have no column {missing[0]}; {stage} begins with {', '.join(needed)}"
            )
    return stage, path


def _ends_with_answer(messages: Any) -> bool:
    """Returns whether a conversation is whole, so that its row needs no column `response`."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == ASSISTANT


def import_rows(context: Context, stage: str, path: str) -> None:
    """Publishes the user's rows as the table that `stage` begins with, filtered like the run's own rows.

    Repeated ids and contaminated rows are filtered; rows for `mix` pass the filters of generated rows. Seed data
    without the column `split` is split here. Tables of round 1 are compared with the holdout of the seed data, which
    is ingested first. A run that imported the same path before continues.

    Raises InputError if the run already has the table, and for rows that cannot be used.
    """
    table, where = context.layout.begins[stage], f"--from {stage}={path}"
    run, source = context.run, path if is_remote(path) else str(Path(path).resolve())
    there = run.done(table)
    if there is not None:
        if there.extra.get(FROM) == source:
            _check_filtered(context, stage)
            return
        raise InputError(f"{where}: the run {run.uri} already has a table {table}; use another --run-dir")
    if not is_seed(table):
        round_zero.ingest(context)
    rows, count = _read(context, stage, path, where)
    if is_seed(table):
        context.write(context.loop.split, rows, "split off the holdout", count)
        rows = decontaminate.filter_rows(context, context.read(context.loop.split))
    elif table.schema is GENERATED_ROWS:
        seed_bands, own_bands = decontaminate.bands_of(context, 0), decontaminate.bands_of(context, 1)
        common = decontaminate.boilerplate(context)
        rows = filter_generated(rows, context.config, decontaminate.indexes(context), own_bands, [seed_bands], common)
    else:
        rows = decontaminate.filter_rows(context, rows)
    context.write(table, rows, f"import {table}", count, extra={FROM: source})
    try:
        seed.check_rows(context, table, where)
    except InputError:
        run.clear(table)
        raise
    _check_filtered(context, stage)


def _check_filtered(context: Context, stage: str) -> None:
    """Lists the contaminated rows; raises InputError if more than `filter.max_share` is filtered for one reason."""
    layout = context.layout
    table = layout.begins[stage]
    listed = layout.contamination if is_seed(table) else layout.imported(f"{stage}_contamination", CONTAMINATION)
    list_contamination(context, table, listed)
    shares.judge(context, table, before=_as_read(context, stage), contaminated=listed, error=InputError)


def _as_read(context: Context, stage: str) -> Table:
    """Returns the table `imported/STAGE`, the user's rows before they are filtered."""
    return context.layout.imported(stage, with_places(context.layout.begins[stage].row_schema))


def _read(context: Context, stage: str, path: str, where: str) -> tuple[ray.data.Dataset, int]:
    """Writes `imported/STAGE`; returns its rows (lazy), with their split and repeated ids marked, and their number.

    Raises InputError if they cannot be used.
    """
    begin, run, config = context.layout.begins[stage], context.run, context.config
    table, files = _as_read(context, stage), files_left_out.files(context, path, f"--from {stage}:", "all")
    rows = read_own_rows(files, begin.row_schema, begin.needed, begin.schema is GENERATED_ROWS, context.transform_cpus)
    count = context.write(table, rows, f"read {path}").rows
    seed.check_rows(context, table, where)
    if stage != "classify" or config.classify.by == "column":
        seed.check_tasks(context, table, f"{where}, column task")
    if stage == "classify" and config.classify.by == "column":
        seed.check_task_column(context, table, f"{where}, column task")
    positions = duplicate_positions(run.files(table), run.fs, context.transform_cpus, begin.key[-1])
    rows = context.map(context.read(table), mark_duplicates, positions=positions)
    if is_seed(begin):
        seed.check_responses(context, table, where)
        rows = filter_read(rows, config)
        if not any(pc.any(batch[HAS_SPLIT.name]).as_py() for batch in run.scan(table, [HAS_SPLIT.name])):
            rows = holdout.with_holdout(context, rows)
    return rows, count
