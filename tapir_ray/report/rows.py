"""`tapir rows RUN`: rows of a finished table, selected, sorted and cut.

    chosen = Choice(table="scored", round_number=1, sort="-difficulty", limit=20)
    found = rows(Run.at("runs/a"), layout, chosen)           # Rows: an Arrow table and the number of matches
    print_rows(found, sys.stdout)

A table is read in batches, and only the best rows of each are kept, so it may be larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from rich.table import Table as Printed

from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.report.console import console
from tapir_ray.run.layout import SHARDS, Layout, LoopLayout, ShardLayout, Table
from tapir_ray.run.run import Run

PREFERRED = (
    "instruction_id", "split", "task", "status", "reason", "difficulty", "teacher_score", "student_score", "messages",
    "response", "student_response",
)  # fmt: skip
"""Columns that are shown unless others are asked for, if the table has them and a shown row has a value."""
CELL_CHARS, TEXT_CHARS = 60, 400
"""Characters of a text that are shown in a table, and on a line of its own."""


@dataclass(frozen=True)
class Choice:
    """Rows to show."""

    table: str = "scored"
    """Name of a table in the layout, such as `scored`, or its path in the run."""
    round_number: int | None = None
    """Round of the table, or None for the last finished one."""
    sort: str = ""
    """Column to sort by; `-COLUMN` sorts from the highest value. Empty keeps the order of the table."""
    limit: int = 20
    where: Sequence[str] = ()
    """`COLUMN=VALUE`: rows with this value; all of them must hold. `COLUMN=null` selects rows without a value."""
    columns: Sequence[str] = ()


@dataclass(frozen=True)
class Rows:
    """Rows of a table of a run."""

    path: str
    rows: pa.Table
    matching: int
    """Rows that meet all conditions."""
    total: int
    hidden: list[str] = field(default_factory=list)
    """Columns that are not shown."""

    def as_json(self) -> dict[str, Any]:
        """Returns the rows as JSON values."""
        return {"table": self.path, "total": self.total, "matching": self.matching, "rows": self.rows.to_pylist()}


def rows(run: Run, layout: Layout, choice: Choice) -> Rows:
    """Returns the rows of a choice.

    Raises InputError, which lists what there is, for an unknown table, round or column, for a table that is not
    finished, and for a value that the column cannot have.
    """
    tables = _tables(run, layout, choice)
    files = [path for table in tables for path in run.files(table)]
    path = ", ".join(str(table) for table in tables)
    total = sum(run.manifest(table).rows for table in tables)
    if not files:
        return Rows(path, pa.table({}), 0, total)
    dataset = pads.dataset(files, filesystem=run.fs, format="parquet")
    schema = dataset.schema
    column, descending = choice.sort.removeprefix("-"), choice.sort.startswith("-")
    for name in (*choice.columns, *([column] if column else ())):
        _field(schema, name, path)
    if column and pa.types.is_nested(schema.field(column).type):
        raise InputError(f"--sort {choice.sort}: {column} is a list and has no order; sort by another column")
    condition = _condition(schema, choice.where, path)
    best, matching = _best(dataset, condition, column, descending, choice.limit)
    shown = list(choice.columns) or _preferred(best)
    return Rows(path, best.select(shown), matching, total, [name for name in schema.names if name not in shown])


def _tables(run: Run, layout: Layout, choice: Choice) -> list[Table]:
    """Returns the finished table of a choice; for a regeneration that of each shard."""
    tables = {table.path: table for table in layout.all() if table.schema is not None}
    if choice.table in tables and "*" not in choice.table:
        found = [tables[choice.table]]
    elif isinstance(layout, ShardLayout) and choice.table in ("labelled", "regenerated"):
        table = getattr(layout, choice.table)
        found = [table.of(f"{SHARDS}/{name}") for name in run.children(SHARDS)]
    else:
        found = [table for table in _named(layout, choice) if table.schema is not None]
    if not found:
        names = sorted({name for name, table in layout.items() if table.schema is not None})
        raise InputError(
            f"--table {choice.table}: no such table; the tables of this run are {', '.join(names)}, or one of the "
            f"paths {', '.join(_done(run, tables.values())) or '(none is finished yet)'}"
        )
    done = [table for table in found if run.done(table)]
    if not done:
        raise InputError(
            f"{', '.join(map(str, found))}: not finished yet; finished are "
            f"{', '.join(_done(run, tables.values())) or 'none'}"
        )
    return done if isinstance(layout, ShardLayout) else done[-1:]


def _named(layout: Layout, choice: Choice) -> list[Table]:
    if choice.round_number is None or not isinstance(layout, LoopLayout):
        return layout.named(choice.table)
    if not 1 <= choice.round_number <= len(layout.rounds):
        raise InputError(f"--round {choice.round_number}: the run has the rounds 1 to {len(layout.rounds)}")
    table = getattr(layout.any_round(choice.round_number), choice.table, None)
    if isinstance(table, Table):
        return [table]
    if layout.named(choice.table):
        raise InputError(f"--round {choice.round_number}: {choice.table} is not a table of a round; leave --round out")
    return []


def _done(run: Run, tables: Any) -> list[str]:
    return [table.path for table in tables if "*" not in table.path and run.done(table)]


def _field(schema: pa.Schema, name: str, path: str) -> pa.Field:
    if name not in schema.names:
        raise InputError(f"{path} has no column {name}; its columns are {', '.join(schema.names)}")
    return schema.field(name)


def _condition(schema: pa.Schema, where: Sequence[str], path: str) -> pads.Expression | None:
    """Returns the conditions as one expression; None without any."""
    found: pads.Expression | None = None
    for text in where:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--where {text}: write COLUMN=VALUE, such as status=filtered")
        kind = _field(schema, name, path).type
        if value == "null":
            one = pads.field(name).is_null()
        elif pa.types.is_nested(kind):
            raise InputError(f"--where {text}: {name} is a list and cannot be compared; give another column")
        else:
            try:
                wanted = pa.scalar(value).cast(kind)
            except pa.ArrowInvalid as error:
                raise InputError(f"--where {text}: {name} is of type {kind}, which {value} is not") from error
            one = pads.field(name) == wanted
        found = one if found is None else found & one
    return found


def _best(
    dataset: pads.Dataset, condition: pads.Expression | None, column: str, descending: bool, limit: int
) -> tuple[pa.Table, int]:
    """Returns the first `limit` rows in order, and the number of rows that meet the condition."""
    if not column:
        return dataset.head(limit, filter=condition), dataset.count_rows(filter=condition)
    best, matching = dataset.schema.empty_table(), 0
    for batch in dataset.to_batches(filter=condition):
        matching += len(batch)
        together = pa.concat_tables([best, pa.Table.from_batches([batch])])
        order = pc.sort_indices(together, [(column, "descending" if descending else "ascending")])
        best = together.take(order[:limit])
    return best, matching


def _preferred(found: pa.Table) -> list[str]:
    """Returns the columns to show: those of PREFERRED, or all if there is none of them, that have a value."""
    names = [name for name in PREFERRED if name in found.column_names] or found.column_names
    return [name for name in names if found[name].null_count < len(found)] or names


def print_rows(found: Rows, file: TextIO) -> None:
    """Prints the rows: a table on a terminal, else a block for each row."""
    out = console(file)
    shown = found.rows.to_pylist()
    match = f", {found.matching:,} match" if found.matching < found.total else ""
    print(f"{found.path}: {found.total:,} rows{match}, {len(shown):,} shown", file=file)
    if file.isatty():
        table = Printed()
        for name in found.rows.column_names:
            number = pa.types.is_floating(found.rows.schema.field(name).type)
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in shown:
            table.add_row(*(_cut(_cell(value), CELL_CHARS) for value in row.values()))
        out.print(table)
    else:
        width = max((len(name) for name in found.rows.column_names), default=0)
        for number, row in enumerate(shown, 1):
            print(f"\n{number}", file=file)
            for name, value in row.items():
                print(f"  {name:<{width}}  {_cut(_cell(value), TEXT_CHARS)}", file=file)
    if found.hidden:
        print(f"other columns (--columns): {', '.join(found.hidden)}", file=file)


def _cell(value: Any) -> str:
    """Returns a value on one line; turns as `role: content`."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and all(isinstance(turn, dict) and "content" in turn for turn in value):
        only = len(value) == 1
        return " ".join(one_line(turn["content"] if only else f"{turn['role']}: {turn['content']}") for turn in value)
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
