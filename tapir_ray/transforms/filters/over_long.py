"""`over_long`: an instruction of more than `filter.max_chars` characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from tapir_ray.config import Config
from tapir_ray.data.schemas import text_of
from tapir_ray.transforms.filters.base import Row, RowFilter


@dataclass(frozen=True)
class OverLong(RowFilter):
    """Filters rows whose turns together have more than `max_chars` characters."""

    reasons: ClassVar = {"over_long": "raise filter.max_chars"}
    keys = ("filter.max_chars",)
    max_chars: int

    @classmethod
    def of(cls, config: Config) -> Sequence[Self]:
        return [cls(config.filter.max_chars)]

    def reason(self, row: Row) -> str | None:
        return "over_long" if len(text_of(row["messages"])) > self.max_chars else None
