"""Losses per response token on the holdout, and their paired differences with bootstrap intervals.

With two random seeds a t test says nothing, so the unit is the holdout row of one seed. The interval is a percentile
bootstrap (Efron and Tibshirani 1993, chapter 13): the rows of each task are drawn with replacement, both arms of a row
together. It covers another holdout of this size, and no other training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
Losses = Mapping[str, Sequence[Sequence[float]]]
"""(cross-entropy in nats, response tokens) of each holdout row, by task in one order."""


@dataclass(frozen=True)
class Difference:
    """Difference of two losses per response token in nats, with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def loss_by_task(losses: Losses) -> dict[str, float]:
    """Returns the loss per response token of each task: a long response counts for all of its tokens."""
    return {task: sum(row[0] for row in rows) / sum(row[1] for row in rows) for task, rows in losses.items()}


def mean_of(losses: Losses, weights: Mapping[str, float]) -> float:
    """Returns the mean over tasks."""
    return sum(weights[task] * loss for task, loss in loss_by_task(losses).items())


def resampled(one: Losses, other: Losses, weights: Mapping[str, float], generator: np.random.Generator) -> np.ndarray:
    """Returns the difference `one` − `other` on RESAMPLES holdouts drawn from this one, in nats per token."""
    total = np.zeros(RESAMPLES)
    for task, rows in one.items():
        change = np.array([row[0] for row in rows]) - np.array([row[0] for row in other[task]])
        tokens = np.array([row[1] for row in rows])
        drawn = generator.integers(0, len(rows), (RESAMPLES, len(rows)))
        total += weights[task] * change[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)
    return total


def difference(pairs: Sequence[tuple[Losses, Losses]], weights: Mapping[str, float]) -> Difference:
    """Returns the difference `one` − `other`, the mean over the pairs (one for each random seed)."""
    mean = float(np.mean([mean_of(one, weights) - mean_of(other, weights) for one, other in pairs]))
    generator = np.random.default_rng(0)
    drawn = np.mean([resampled(one, other, weights, generator) for one, other in pairs], axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(mean, float(low), float(high))
