"""Functions of `filter.functions`: a row in, a reason to filter it or None out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from tapir_ray.config import Config
from tapir_ray.config.registry import resolve
from tapir_ray.transforms.filters.base import BEFORE, Row, RowFilter

ADVICE = "look at filter.functions"
"""What to change if too many rows are filtered for a reason that no filter of ours gives."""


class UserFunction(RowFilter):
    """Filters rows for what the function returns, a short snake_case word; it runs BEFORE or as it is decorated."""

    keys = ("filter.functions",)

    def __init__(self, function: Callable[[dict[str, Any]], str | None]) -> None:
        self.function = function
        self.when = getattr(function, "when", BEFORE)

    @classmethod
    def of(cls, config: Config) -> Sequence[Self]:
        return [cls(resolve(spec, {}, what="filter.functions")) for spec in config.filter.functions]

    def reason(self, row: Row) -> str | None:
        return self.function(dict(row))
