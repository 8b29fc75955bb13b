"""`below_min_score`: an answer that the judge scores below `respond.min_score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from tapir_ray.config import Config
from tapir_ray.transforms.filters.base import SCORED, Row, RowFilter


@dataclass(frozen=True)
class BelowMinScore(RowFilter):
    """Filters rows whose `answer_score` (1 to 10) is below `least`."""

    reasons: ClassVar = {"below_min_score": "lower respond.min_score, or use another teacher"}
    keys = ("respond.min_score",)
    when = SCORED
    least: float

    @classmethod
    def of(cls, config: Config) -> Sequence[Self]:
        return [cls(config.respond.min_score)] if config.respond.min_score is not None else []

    def reason(self, row: Row) -> str | None:
        return "below_min_score" if (row["answer_score"] or 0.0) < self.least else None
