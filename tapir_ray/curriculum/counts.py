"""Counts that can be merged in any order: the base of a round's statistics."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

MILLI = 1000


class Counts(BaseModel):
    """Base of the statistics: merging two adds every number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def merged(self, other: Any) -> Any:
        """Returns the statistics of both sets of rows together."""
        names = type(self).model_fields
        return type(self)(**{name: added(getattr(self, name), getattr(other, name)) for name in names})


class Moments(Counts):
    """Sums over pairs (x, y)."""

    n: int = 0
    x: int = 0
    y: int = 0
    xx: int = 0
    yy: int = 0
    xy: int = 0

    @property
    def correlation(self) -> float | None:
        """Pearson's r; None for fewer than 3 pairs, or if x or y does not vary."""
        spread = (self.n * self.xx - self.x**2) * (self.n * self.yy - self.y**2)
        # Any two pairs lie on a line, so r of fewer than 3 says nothing.
        if self.n < 3 or spread <= 0:
            return None
        return (self.n * self.xy - self.x * self.y) / math.sqrt(spread)

    @property
    def mean(self) -> float | None:
        """Mean of x in units (x is in thousandths); None without pairs."""
        return self.x / MILLI / self.n if self.n else None


def added(one: Any, other: Any) -> Any:
    """Returns the sum of two numbers, statistics, or mappings of them by key."""
    if isinstance(one, dict):
        both = {
            key: added(one[key], other[key]) if key in one and key in other else one.get(key, other.get(key))
            for key in {**one, **other}
        }
        return dict(sorted(both.items()))
    return one.merged(other) if isinstance(one, Counts) else one + other
