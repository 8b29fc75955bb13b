"""Manifest of a table: a table is finished if its folder has a `_manifest.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class Manifest:
    """Content of a finished table. It is written last, so its presence means that the table is complete."""

    table: str
    rows: int
    files: list[str]
    statuses: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    """Filtered rows by reason (the text before its colon)."""
    errors: dict[str, int] = field(default_factory=dict)
    """Failed rows by reason."""
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def count(self, status: str) -> int:
        """Returns the number of rows with a status; in a table without statuses all rows are ok."""
        return self.statuses.get(status, 0) if self.statuses else (self.rows if status == "ok" else 0)
