"""Notes on unused and missing columns of a file, counted over the column `columns` of the table PARSED."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.config import SeedData
from tapir_ray.data.values import one_line, to_json
from tapir_ray.errors import InputError

NOT_READ = "{}"
"""Notes of a row that is not a conversation."""
SHOWN = 8


def note(row: Mapping[str, Any], unused: Sequence[str], seed_data: SeedData) -> str:
    """Returns JSON with a row's `unused` text columns, and the columns of `seed_data.columns` that are `missing`."""
    named = [name for names in seed_data.columns.given.values() for name in names]
    return to_json({"unused": unused, "missing": [name for name in named if name not in row]})


@dataclass
class ColumnNotes:
    """Counts of the notes of many rows."""

    rows: int = 0
    read: int = 0
    """Rows that are a conversation."""
    unused: Counter[str] = field(default_factory=Counter)
    """By text column that nothing uses: rows that have it."""
    missing: Counter[str] = field(default_factory=Counter)
    """By column of `seed_data.columns`: rows that lack it."""

    def add(self, notes: str, rows: int = 1) -> None:
        """Counts `rows` rows with the same `notes`, as returned by `note`."""
        found: dict[str, Any] = json.loads(notes)
        self.rows += rows
        self.read += rows if found else 0
        for name in found.get("unused", ()):
            self.unused[name] += rows
        for name in found.get("missing", ()):
            self.missing[name] += rows

    def sentence(self, where: str) -> str | None:
        """Returns one line about all unused columns; None if there is none."""
        if not self.unused:
            return None
        each = [f"`{one_line(name)}` ({rows:,} of {self.rows:,} rows)" for name, rows in self.unused.most_common()]
        names = ", ".join(each[:SHOWN]) + (f" and {len(each) - SHOWN} more" if len(each) > SHOWN else "")
        what = "text columns are not used and are" if len(each) > 1 else "a text column is not used and is"
        return f"{where}: {what} kept in meta: {names}; map one with seed_data.columns, or name it in columns.meta"

    def forget(self, names: Iterable[str | None]) -> None:
        """Removes columns that have another use: the task column, the columns of strata."""
        for name in names:
            if name is not None:
                self.unused.pop(name, None)


def no_response(notes: ColumnNotes) -> str:
    """Returns the advice for a file in which no row has a response; it names the unused columns, which may hold it."""
    others = ", ".join(f"`{one_line(name)}`" for name, _ in notes.unused.most_common(SHOWN))
    named = f"if {others} has the answers, set seed_data.columns: {{response: NAME}}; otherwise " if others else ""
    return f"no row has a response; {named}set seed_data.responses: fill to have the teacher write them"


def refuse_missing(notes: ColumnNotes, seed_data: SeedData, where: str) -> None:
    """Raises InputError, which begins with `where`, for a column of `seed_data.columns` that no row has."""
    never = [name for name, rows in notes.missing.items() if rows == notes.read]
    if never:
        (role,) = (role for role, names in seed_data.columns.given.items() if never[0] in names)
        others = ", ".join(one_line(name) for name in list(notes.unused)[:SHOWN])
        has = f"; columns that are not used are {others}" if others else ""
        raise InputError(f"{where}: no row has the column {never[0]} of seed_data.columns.{role}{has}")


def counted(batches: Iterable[pa.RecordBatch]) -> ColumnNotes:
    """Counts the notes of all rows."""
    notes = ColumnNotes()
    for batch in batches:
        # Most rows of a file have the same notes: each distinct JSON text is parsed once a batch.
        for value in pc.value_counts(batch["columns"].drop_null()).to_pylist():
            notes.add(value["values"], value["counts"])
    return notes
