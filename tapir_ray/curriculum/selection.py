"""Selection of the rows that a round works on: an interval of difficulties, from counts alone.

    asked = asked_interval(histogram, rules)           # {2.0: 40, 5.0: 10} at δ = 5: Interval(low=5.0)
    moved = moved_interval(histogram, asked, needs, rules.select, positive=True)

`curriculum.difficulty.select` names the rule; the selected rows are the pool `hard`.

- `hard`: all difficulties from δ on.
- `frontier`: those nearest to the middle (min + max) / 2 of the reliable difficulties, `top_fraction` of the rows (0.5
  if it is null). Rows that the student can do, and rows far beyond it, are the pool `easy`.

The needs of a round count the rows that expansions add to each pool (`sources.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from tapir_ray.config import Config
from tapir_ray.config.curriculum import Difficulty
from tapir_ray.curriculum.quotas import exact, round_half_up
from tapir_ray.curriculum.sources import Added

FRONTIER = 0.5
"""Share of the rows that `frontier` selects if `top_fraction` is null."""
CROWDED = 0.5
"""Share of the rows with one difficulty, the highest or the lowest, from which the plan warns."""

Histogram = Mapping[float, int]
"""Reliable rows by difficulty."""


@dataclass(frozen=True)
class Interval:
    """Selected difficulties, both ends included."""

    low: float
    high: float | None = None
    """None: there is no upper end."""

    def rows(self, histogram: Histogram) -> int:
        """Returns the number of selected rows."""
        top = math.inf if self.high is None else self.high
        return sum(n for value, n in histogram.items() if self.low <= value <= top)

    def distance(self, other: Interval) -> float:
        """Returns how far the ends of two intervals of the same rule are apart, in units of the difficulty."""
        ends = 0.0 if self.high is None or other.high is None else abs(self.high - other.high)
        return abs(self.low - other.low) + ends

    def __str__(self) -> str:
        return f"δ = {self.low:g}" if self.high is None else f"difficulties {self.low:g} to {self.high:g}"


def asked_interval(histogram: Histogram, rules: Difficulty) -> Interval:
    """Returns the interval that the configuration asks for: δ, or the one whose rows are nearest to its share of all.

    Of two intervals equally near to the share, the one with fewer rows.
    """
    if rules.select == "hard" and rules.top_fraction is None:
        return Interval(rules.threshold)
    target = round_half_up(exact(rules.top_fraction or FRONTIER) * sum(histogram.values()))
    found = intervals(histogram, rules.select)
    return min(found, key=lambda one: (abs(one.rows(histogram) - target), one.rows(histogram)))


def intervals(histogram: Histogram, select: str) -> list[Interval]:
    """Returns every interval that a rule can select: one for each difficulty, or for each distance from the middle."""
    if select == "hard":
        return [Interval(value) for value in histogram]
    # Twice the distance from the middle, in exact fractions: 0.1 + 0.2 is not 0.3 in floats.
    twice = {value: abs(2 * exact(value) - exact(min(histogram)) - exact(max(histogram))) for value in histogram}
    within = [[value for value in histogram if twice[value] <= radius] for radius in sorted(set(twice.values()))]
    return [Interval(min(values), max(values)) for values in within]


@dataclass(frozen=True)
class Needs:
    """Fewest reliable rows that a round needs in each pool."""

    hard: int
    easy: int

    def lack(self, hard: int, easy: int) -> int:
        """Returns the number of rows missing in both pools."""
        return max(0, self.hard - hard) + max(0, self.easy - easy)


def needs(n: int, alpha: float, config: Config, added: Added) -> Needs:
    """Returns the needs of a round with n reliable rows, by the rules of `plan.py`."""
    rows = n if config.mix.size is None or config.mix.unit == "tokens" else min(n, config.mix.size)
    share = exact(alpha)
    # A row of a pool brings itself, up to `max_repeat` times, and its part of the expansions of random rows.
    each = config.mix.max_repeat + added.spread
    hard = math.ceil((share * rows - added.hard) / each)
    if config.expand.sources.hard:
        hard = max(1, math.ceil(exact(config.curriculum.difficulty.min_hard_share) * n), hard)
    easy = math.ceil(((1 - share) * rows - added.easy - added.spread * added.unscored) / each)
    return Needs(max(0, hard), max(0, easy))


def moved_interval(histogram: Histogram, asked: Interval, need: Needs, select: str, positive: bool) -> Interval:
    """Returns the interval with the fewest rows missing in both pools; of equals, the nearest to `asked`.

    With `positive` its low end is above 0. `asked` itself is a candidate if it selects a row, and the result if there
    is no candidate.
    """
    n = sum(histogram.values())
    allowed = [one for one in intervals(histogram, select) if one.low > 0.0 or not positive]
    if asked.rows(histogram):
        allowed.append(asked)

    def lack(one: Interval) -> int:
        hard = one.rows(histogram)
        return need.lack(hard, n - hard)

    return min(allowed, key=lambda one: (lack(one), one.distance(asked), -one.low), default=asked)


def moved_alpha(hard: int, n: int, alpha: float, config: Config, added: Added) -> float:
    """Returns the α nearest to `alpha` that a mix of all n rows can have, with the rows that expansions add."""
    each = config.mix.max_repeat + added.spread
    # Exact fractions, so that only the last line rounds.
    least = 1 - ((n - hard) * each + added.easy + added.spread * added.unscored) / n
    most = (hard * each + added.hard) / n
    # 12 digits as in `schedule.alpha`, so that moved and scheduled values compare equal.
    return float(round(min(max(exact(alpha), least, Fraction(0)), most, Fraction(1)), 12))


def floor_or_ceiling(histogram: Histogram, select: str) -> list[str]:
    """Returns a warning if more than half of the reliable rows share the highest or the lowest difficulty."""
    n, found = sum(histogram.values()), []
    for value, end in {max(histogram): "highest", min(histogram): "lowest"}.items():
        share = histogram[value] / n
        if share > CROWDED:
            others = "frontier or none" if select == "hard" else "none"
            found.append(
                f"{share:.0%} of the reliable rows have the {end} difficulty of the round, {value:g}: the difficulty "
                "cannot tell them apart; train longer before the first round (train.initial_epochs), use a finer "
                f"judge, or set curriculum.difficulty.select {others}"
            )
    return found
