"""An output of a run: its path, schema, key, inputs and stage."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field, replace

import pyarrow as pa

WORKING = "-"
"""Character before the last part of a working table's name. No table of a layout has it in its name."""


@dataclass(frozen=True)
class Begin:
    """Start of a run at `stage` with a user's own table (`--from STAGE=PATH`), which must have these columns."""

    stage: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Output folder of a run: a table of rows, or a model or an index if it has no schema.

    Two tables with the same path are equal.
    """

    path: str
    schema: pa.Schema | None = field(default=None, compare=False, repr=False)
    key: tuple[str, ...] = field(default=(), compare=False)
    """Columns whose values together are unique."""
    inputs: tuple[Table, ...] = field(default=(), compare=False, repr=False)
    stage: str = field(default="", compare=False)
    """Stage that makes the table, by its name for `--until`; empty if it is made when it is first needed."""
    begins_with: Begin | None = field(default=None, compare=False)
    files: tuple[str, ...] = field(default=(), compare=False)
    """Files of the run that belong to the table and are stored outside its folder."""

    def __str__(self) -> str:
        return self.path

    @property
    def name(self) -> str:
        """The last part of the path, such as `scored`."""
        return posixpath.basename(self.path)

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that a user's rows must have to begin a stage with this table."""
        return () if self.begins_with is None else self.begins_with.columns

    @property
    def row_schema(self) -> pa.Schema:
        """The schema of a table of rows."""
        assert self.schema is not None, self.path
        return self.schema

    def working(self, name: str) -> Table:
        """Returns a table next to this one for rows on their way into it: `scored-answered` for `answered`.

        It has the same schema and key. It is not in the layout, and is deleted once this table is finished.
        """
        return Table(f"{self.path}{WORKING}{name}", self.schema, self.key)

    def is_working(self, name: str) -> bool:
        """Returns True for the name of a working table of this table, or of one of its working tables."""
        return name.startswith(f"{self.name}{WORKING}")

    def of(self, shard: str) -> Table:
        """Returns the table of this name in the folder of a shard."""
        return replace(self, path=f"{shard}/{self.name}")
