"""The file that makes a table finished, `_manifest.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a finished table holds: written last, so that its presence means the table is whole."""

    table: str
    rows: int
    files: list[str]
    statuses: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    """Filtered rows by reason (the word before a colon)."""
    errors: dict[str, int] = field(default_factory=dict)
    """Failed rows by reason."""
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def count(self, status: str) -> int:
        """Rows of a status; a table without statuses has only ok rows."""
        return self.statuses.get(status, 0) if self.statuses else (self.rows if status == "ok" else 0)
