"""Reads the seed data into the run, and refuses unusable data before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow.compute as pc
import ray.data

from tapir_ray.data.formats import Ambiguous, Malformed
from tapir_ray.data.readers import Unreadable
from tapir_ray.data.schemas import OK
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.run.layout import Table
from tapir_ray.run.run import Run
from tapir_ray.steps import files_left_out
from tapir_ray.steps.context import Context
from tapir_ray.transforms.column_notes import ColumnNotes, counted, no_response, refuse_missing
from tapir_ray.transforms.filters import filter_read
from tapir_ray.transforms.ingest import COLUMNS, duplicate_positions, mark_duplicates, parse_sources

COLUMNS_SHOWN = 10
UNUSED = "unused_columns"
"""Event with the unused columns of the seed data (`columns`, rows by name) and its number of `rows`."""


def read(context: Context) -> None:
    """Writes `seed/read`: every row of the seed data with its id and place. Reports unused text columns once.

    Raises InputError for malformed rows (naming file and line of the first), for unknown or missing tasks, and if no
    row can be used.
    """
    seed_data = context.config.seed_data
    table = context.layout.read
    if context.run.done(table):
        return
    rows = parse_sources(files_left_out.seed_files(context), seed_data, context.transform_cpus)
    context.write(table, rows, "read the seed data")
    try:
        where = f"seed_data.path {seed_data.path}"
        check_rows(context, table, where)
        notes = note_columns(context, table, where)
        check_responses(context, table, where, notes)
        if seed_data.task_column is not None:
            check_tasks(context, table, f"column {seed_data.task_column} of {seed_data.path}")
            check_styled(context, table)
        if context.config.classify.by == "column":
            check_task_column(context, table, f"seed_data.task_column {seed_data.task_column}")
    except InputError:
        # A finished table would let the next start pass without these checks.
        context.run.clear(table)
        raise


def without_repeats(context: Context) -> ray.data.Dataset:
    """Returns the rows of `seed/read`; repeats, and rows without the answer to keep, are marked. Lazy.

    Of equal rows the first is kept, or the first with an answer unless `seed_data.responses` is `replace`.
    """
    run, table = context.run, context.layout.read
    answer = None if context.config.seed_data.responses == "replace" else "response"
    with context.progress.stage("find repeats") as facts:
        repeated = duplicate_positions(run.files(table), run.fs, context.transform_cpus, preferred=answer)
        facts["repeated"] = len(repeated)
    rows = context.map(context.read(table), mark_duplicates, positions=repeated)
    return filter_read(rows, context.config)


def check_rows(context: Context, table: Table, where: str) -> None:
    """Raises InputError, which begins with `where`, for a broken file, a malformed row, or if no row can be used.

    `table` has the columns `position`, `status` and `reason`.
    """
    manifest = context.run.manifest(table)
    if manifest.reasons.get(Unreadable.reason):
        why = _first_reason(context, table, Unreadable.reason)
        # The reason may already name its remedy, seed_data.split.
        raise InputError(f"{where}: {why}{'' if 'seed_data.split' in why else '; fix the file'}")
    if manifest.reasons.get(Ambiguous.reason):
        raise InputError(f"{where}: {_first_reason(context, table, Ambiguous.reason)}")
    malformed = manifest.reasons.get(Malformed.reason, 0)
    if malformed and not context.config.seed_data.skip_malformed:
        raise InputError(
            f"{where}: {_first_reason(context, table, Malformed.reason)}"
            f"{f' (and {malformed - 1} more malformed rows)' if malformed > 1 else ''}; "
            "fix the file, or set seed_data.skip_malformed: true to leave such rows out"
        )
    if manifest.count(OK) == 0:
        reasons = ", ".join(f"{kind} {n}" for kind, n in manifest.reasons.items())
        first = _first_reason(context, table, next(iter(manifest.reasons), ""))
        raise InputError(
            f"{where}: no usable row among {manifest.rows}{f' ({reasons})' if reasons else ''}"
            f"{f'; the first: {first}' if first else ''}"
        )


def note_columns(context: Context, table: Table, where: str) -> ColumnNotes:
    """Reports unused text columns in one line and an event; returns the counts. `table` has the schema PARSED.

    Raises InputError, which begins with `where`, for a column of `seed_data.columns` that no row has.
    """
    notes = counted(context.run.scan(table, [COLUMNS.name]))
    refuse_missing(notes, context.config.seed_data, where)
    notes.forget([context.config.seed_data.task_column, *context.config.holdout.stratify_by])
    if sentence := notes.sentence(where):
        context.progress.say(sentence)
        context.run.event(UNUSED, rows=notes.rows, columns=dict(notes.unused))
    return notes


def check_responses(context: Context, table: Table, where: str, notes: ColumnNotes | None = None) -> None:
    """Raises InputError if `seed_data.responses` is `keep` and no ok row has a response.

    The message names the unused columns of `notes`: one of them may hold the answers.
    """
    if context.config.seed_data.responses != "keep":
        return
    for batch in context.run.scan(table, ["response", "status"]):
        if pc.any(pc.and_(pc.is_valid(batch["response"]), pc.equal(batch["status"], OK))).as_py():
            return
    raise InputError(f"{where}: {no_response(notes or ColumnNotes())}")


def check_tasks(context: Context, table: Table, where: str) -> None:
    """Raises InputError for a task that is not in the taxonomy; `curriculum.tasks: seed` accepts any task."""
    if context.taxonomy.from_seed:
        return
    for batch in context.run.scan(table, ["task", "status"]):
        for task in pc.unique(batch["task"].filter(pc.equal(batch["status"], OK))).to_pylist():
            if task is not None:
                context.taxonomy.check(task, where)


def check_styled(context: Context, table: Table) -> None:
    """Raises InputError for a label in `rewrite.tasks` that neither the taxonomy nor an ok row of `table` has."""
    missing = set(context.taxonomy.styled or ()) - {*context.taxonomy.labels}
    if not missing:
        return
    own = {row["task"] for row in _ok_rows(context, table, "task")} - {None}
    if unknown := sorted(missing - own):
        known = [*context.taxonomy.labels, *sorted(own - {*context.taxonomy.labels})]
        raise InputError(f"rewrite.tasks: unknown task {unknown[0]!r}; the tasks are {', '.join(known)}")


def check_task_column(context: Context, table: Table, where: str) -> None:
    """Raises InputError, which begins with `where` and names the other columns, if no ok row has a task."""
    if any(row["task"] is not None for row in _ok_rows(context, table, "task")):
        return
    columns = {name: None for row in islice(_ok_rows(context, table, "meta"), 100) for name in json.loads(row["meta"])}
    names = ", ".join(one_line(name) for name in list(columns)[:COLUMNS_SHOWN])
    others = f"; the other columns are {names}" if columns else ""
    raise InputError(f"{where}: no row has a value in this column{others}")


def _first_reason(context: Context, table: Table, kind: str) -> str:
    """Returns the reason of the earliest row of a kind, without the kind: `a.jsonl:3: no user turn`."""
    found: list[tuple[int, str]] = []
    for batch in context.run.scan(table, ["position", "reason"]):
        bad = batch.filter(pc.starts_with(pc.fill_null(batch["reason"], ""), f"{kind}:"))
        found = sorted([*found, *zip(bad["position"].to_pylist(), bad["reason"].to_pylist(), strict=True)])[:1]
    return found[0][1].removeprefix(f"{kind}: ") if found else ""


def _ok_rows(context: Context, table: Table, column: str) -> Iterator[dict[str, Any]]:
    for batch in context.run.scan(table, [column, "status"]):
        yield from (row for row in batch.to_pylist() if row["status"] == OK)


def unused_columns(run: Run) -> dict[str, int]:
    """Returns the unused text columns of the seed data, with the number of rows that have them."""
    found = [event["columns"] for event in run.events(UNUSED)]
    return found[-1] if found else {}
