"""Bootstrap over rows: the mean of a student's scores, and two students' difference, with their 95 % intervals.

    gain = paired_gain(before={"a": 3.0, "b": 5.0}, after={"a": 4.0, "b": 5.5})
    gain.mean, gain.low, gain.high                # 0.75, 0.5, 1.0
    in_words(gain)                                # "+0.75 [+0.50, +1.00]"
    bootstrap([1.0, 0.0, 1.0, 1.0]).value         # 0.75

The percentile interval of B. Efron and R. Tibshirani, An Introduction to the Bootstrap, Chapman & Hall 1993, chapter
13: rows are drawn with replacement, as many as there are, and their mean difference is taken; this is repeated, and the
interval goes from the 2.5th to the 97.5th percentile of these means. Both scores of a row are drawn together, so rows
that are hard for both students do not widen the interval.

It says how far another holdout of this size would move the mean. It does not cover another training of the students.
With fewer than about 20 rows the percentile interval is too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tapir_ray.errors import InputError

RESAMPLES = 10_000
LEVEL = 0.95
MOST_DRAWN = 4_000_000
"""Most rows that are drawn at once: 32 MB of indexes."""


@dataclass(frozen=True)
class Gain:
    """Mean difference of two scores over the rows that both have, with its interval, rounded to 4 digits."""

    mean: float
    low: float
    high: float
    rows: int
    """Rows with a score on both sides."""
    left_out: int
    """Rows with a score on one side only."""

    @property
    def sign(self) -> int:
        """1 or −1 if the interval is above or below 0; 0 if it contains 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Metric:
    """A figure of one student over the items of a suite, with its 95 % interval, rounded to 4 digits."""

    value: float
    low: float
    high: float
    rows: int
    """Items that it covers."""
    standard_error: float | None = None
    """Of the value, for a figure that is published with it."""


def bootstrap(
    scores: Sequence[float],
    weights: Sequence[float] | None = None,
    random_seed: int = 0,
    resamples: int = RESAMPLES,
) -> Metric:
    """Returns the mean of the items' scores with its 95 % bootstrap interval over items.

    With `weights` the metric is sum(scores) / sum(weights): passed instructions over all instructions, for example,
    if an item has several. Items with a weight of 0 are left out. Raises InputError without an item.
    """
    top = np.asarray(scores, float)
    bottom = np.ones(len(top)) if weights is None else np.asarray(weights, float)
    counted = bottom > 0
    top, bottom = top[counted], bottom[counted]
    if not len(top):
        raise InputError("a metric needs at least one scored item")
    drawn = [top[at].sum(axis=1) / bottom[at].sum(axis=1) for at in _draws(len(top), random_seed, resamples)]
    value = float(top.sum() / bottom.sum())
    value, low, high = _rounded(value, *_interval(np.concatenate(drawn)))
    return Metric(value, low, high, len(top))


def paired_gain(
    before: Mapping[str, float], after: Mapping[str, float], random_seed: int = 0, resamples: int = RESAMPLES
) -> Gain:
    """Returns the mean of `after` − `before` over the rows of both, with its 95 % bootstrap interval.

    The scores are given by the id of their row. The same scores and random seed give the same interval, whatever the
    order of the rows. Raises InputError if no row has both scores.
    """
    ids = sorted(before.keys() & after.keys())
    if not ids:
        raise InputError(f"no row has both scores ({len(before)} rows have one of them, {len(after)} the other)")
    differences = np.array([after[row_id] - before[row_id] for row_id in ids])
    means = np.concatenate([differences[at].mean(axis=1) for at in _draws(len(ids), random_seed, resamples)])
    left_out = len(before.keys() ^ after.keys())
    mean, low, high = _rounded(float(differences.mean()), *_interval(means))
    return Gain(mean, low, high, len(ids), left_out)


def _draws(rows: int, random_seed: int, resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yields the indexes of the drawn rows, one sample a line, at most MOST_DRAWN of them at once."""
    generator, at_once = np.random.default_rng(random_seed), max(1, MOST_DRAWN // rows)
    for start in range(0, resamples, at_once):
        yield generator.integers(0, rows, (min(at_once, resamples - start), rows))


def _interval(means: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _rounded(*values: float) -> list[float]:
    return [round(value, 4) for value in values]


def in_words(gain: Gain, digits: int = 2) -> str:
    """Returns the difference and its interval, such as `+0.41 [+0.12, +0.70]`."""
    return f"{gain.mean:+.{digits}f} [{gain.low:+.{digits}f}, {gain.high:+.{digits}f}]"


def rows_in_words(gain: Gain) -> str:
    """Returns the number of rows, and of those with a score on one side only: `398 rows, without 2`."""
    return f"{gain.rows} rows" + (f", without {gain.left_out} that one of them lacks" if gain.left_out else "")
