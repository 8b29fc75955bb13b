"""Sources of a round's draws (`expand.sources`): hard rows, easy rows, or rows of any pool.

    draws, warnings = draws_by_source(100, {"hard": 0.5, "random": 0.5}, rooms, weights)
    draws                                               # {"hard": {"Math": 50}, "random": {"Art": 5, "Math": 45}}

A generated row has the pool of the row that it was drawn from, so a source adds rows to that pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction

from tapir_ray.config import Config
from tapir_ray.curriculum.quotas import apportion, exact

RANDOM = "random"
"""Source of all usable rows: scored or not, of any pool but `unreliable`."""

Draws = dict[str, dict[str, int]]
"""Number of draws by source and task."""


@dataclass(frozen=True)
class Added:
    """Rows that a round's expansions are expected to add to the pools, if no draw is filtered."""

    hard: Fraction
    """From hard rows."""
    easy: Fraction
    spread: Fraction
    """From rows of any pool: for each usable row, in the pool of that row."""
    unscored: int
    """Usable rows without a difficulty; what is drawn from them is easy."""


def added(round_number: int, reliable: int, unscored: int, config: Config) -> Added:
    """Returns the rows that the expansions of a round add; its probes are not in its training set."""
    sources = config.expand.sources
    kept = config.expand.size * (1 - exact(probe_share(round_number, config)))
    total = sum(map(exact, sources.shares.values()))
    hard, easy, anywhere = (kept * exact(share) / total for share in (sources.hard, sources.easy, sources.random))
    return Added(hard, easy, anywhere / max(1, reliable + unscored), unscored)


def probe_share(round_number: int, config: Config) -> float:
    """Returns the share of a round's generated rows that it keeps out of its training set: 0 in the last round."""
    return config.expand.probe_share if round_number < config.curriculum.rounds else 0.0


def draws_by_source(
    size: int,
    shares: Mapping[str, float],
    rooms: Mapping[str, Collection[str]],
    weights: Mapping[str, Mapping[str, float]],
) -> tuple[Draws, list[str]]:
    """Returns the draws by source and task, and warnings.

    `rooms` are the tasks that have rows, and `weights` their mixture weights, both by source. The share of a source
    without rows goes to the other sources in proportion to theirs, with a warning. The draws are empty if no source
    with a share has rows.
    """
    asked = {source: share for source, share in shares.items() if share > 0.0}
    kept = {source: share for source, share in asked.items() if rooms[source]}
    numbers = apportion(size, dict.fromkeys(kept, size), kept) if kept else {}
    draws = {
        source: apportion(n, dict.fromkeys(sorted(rooms[source]), n), weights[source]) for source, n in numbers.items()
    }
    warnings = [
        f"expand.sources.{source}: there is no {source} row to draw from, so its share of {asked[source]:g} goes to "
        f"{' and '.join(kept)}"
        for source in asked
        if kept and source not in kept
    ]
    return draws, warnings


def by_task(draws: Draws) -> dict[str, int]:
    """Returns the draws of all sources by task, in the order of the tasks' names."""
    total: Counter[str] = Counter()
    for tasks in draws.values():
        total.update(tasks)
    return dict(sorted(total.items()))
