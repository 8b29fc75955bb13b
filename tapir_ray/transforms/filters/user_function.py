"""Functions of `filter.functions`: they take a row, and return a reason to filter it or None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from tapir_ray.config import Config
from tapir_ray.config.registry import resolve
from tapir_ray.transforms.filters.base import BEFORE, Row, RowFilter

ADVICE = "check the functions in filter.functions"
"""Advice for a reason that no built-in filter gives."""


class UserFunction(RowFilter):
    """Filters rows for the reason that the function returns, a short snake_case word.

    It runs BEFORE answering, or AFTER if it is decorated by `after_answering`.
    """

    keys = ("filter.functions",)

    def __init__(self, function: Callable[[dict[str, Any]], str | None]) -> None:
        self.function = function
        self.when = getattr(function, "when", BEFORE)

    @classmethod
    def of(cls, config: Config) -> Sequence[Self]:
        return [cls(resolve(spec, {}, what="filter.functions")) for spec in config.filter.functions]

    def reason(self, row: Row) -> str | None:
        return self.function(dict(row))
