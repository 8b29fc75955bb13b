"""A section of the report and the blocks in it: figures, grids of numbers, facts, notes and rows to read.

A module in `sections/` has a function `section(view) -> Section`. It computes nothing that another package computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

MOST_LINES = 200
"""Lines of a grid that the page has; the tables of the run have all."""

Cell: TypeAlias = str | int | float | None


@dataclass(frozen=True)
class Grid:
    """A table of numbers. A float has 3 digits, None is a dash."""

    caption: str
    columns: Sequence[str]
    lines: Sequence[Sequence[Any]]
    """Values of type Cell."""

    @property
    def shown(self) -> Sequence[Sequence[Any]]:
        return self.lines[:MOST_LINES]

    @property
    def left_out(self) -> int:
        """Lines that are not shown."""
        return max(0, len(self.lines) - MOST_LINES)


@dataclass(frozen=True)
class Figure:
    """A chart, with its numbers for those who cannot see it."""

    title: str
    says: str
    """A sentence that says how to read it."""
    spec: dict[str, Any]
    """Vega-Lite, from `charts`."""
    numbers: Grid | None = None


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Notes:
    """Sentences; `kind` is `note` or `warning`."""

    sentences: Sequence[str]
    kind: str = "note"


@dataclass(frozen=True)
class Reading:
    """A row to read: texts of strangers, which the page escapes."""

    group: str
    """Why the row is shown, such as `hardest`."""
    task: str
    label: str
    """Numbers of the row in words, such as `difficulty 7.0`."""
    order: float
    """Number by which the rows of a group are sorted."""
    texts: Sequence[tuple[str, str]]
    """(name, text): the question, the answers with their scores, the judge's words."""
    row_id: str = ""


@dataclass(frozen=True)
class Readings:
    """Rows to read, with a search field, a choice of the group and an order."""

    rows: Sequence[Reading]
    left_out: dict[str, int] = field(default_factory=dict)
    """By group: rows that the page has not."""


Block: TypeAlias = Figure | Grid | Facts | Notes | Readings


@dataclass(frozen=True)
class Section:
    """A part of the report. `says` tells in a sentence what it shows; `missing` why there is nothing to show."""

    key: str
    title: str
    says: str
    blocks: Sequence[Block] = ()
    missing: str = ""

    @property
    def why_empty(self) -> str:
        """The reason to print if the section has no block."""
        return "" if self.blocks else self.missing or "The run has no data for it."
