"""`empty`: an instruction with a user turn that has no text."""

from __future__ import annotations

from typing import ClassVar

from tapir_ray.transforms.filters.base import Row, RowFilter


class Empty(RowFilter):
    """Filters rows without messages, and rows with a blank user turn."""

    reasons: ClassVar = {"empty": "the rows have no text: check the source"}

    def reason(self, row: Row) -> str | None:
        messages = row["messages"] or []
        filled = all(message["content"].strip() for message in messages if message["role"] == "user")
        return None if messages and filled else "empty"
