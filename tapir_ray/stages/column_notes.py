"""What became of the columns of a file, counted over its rows from the column `columns` of the table PARSED."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.values import one_line

SHOWN = 8


@dataclass
class ColumnNotes:
    """`unused`: rows by column with text that nothing uses; `missing`: rows without a column that the config names."""

    rows: int = 0
    read: int = 0
    """Rows that are a conversation."""
    unused: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)

    def add(self, notes: str, rows: int = 1) -> None:
        """Counts `rows` rows of the same notes, which are those of a row of PARSED."""
        found: dict[str, Any] = json.loads(notes)
        self.rows += rows
        self.read += rows if found else 0
        for name in found.get("unused", ()):
            self.unused[name] += rows
        for name in found.get("missing", ()):
            self.missing[name] += rows

    def sentence(self, where: str) -> str | None:
        """One line about all columns that are used for nothing; None if there is none."""
        if not self.unused:
            return None
        each = [f"`{one_line(name)}` ({rows:,} of {self.rows:,} rows)" for name, rows in self.unused.most_common()]
        names = ", ".join(each[:SHOWN]) + (f" and {len(each) - SHOWN} more" if len(each) > SHOWN else "")
        what = "text columns are not used and are" if len(each) > 1 else "a text column is not used and is"
        return f"{where}: {what} kept in meta: {names}; map one with seed_data.columns, or name it in columns.meta"

    def never_there(self) -> list[str]:
        """Columns that the config names and no row has."""
        return [name for name, rows in self.missing.items() if rows == self.read]


def counted(batches: Iterable[pa.RecordBatch]) -> ColumnNotes:
    """The notes of all rows."""
    notes = ColumnNotes()
    for batch in batches:
        for value in pc.value_counts(batch["columns"].drop_null()).to_pylist():
            notes.add(value["values"], value["counts"])
    return notes
