"""Quota table of a training set, from a plan and the sizes of the pools: a pure function of counts.

    mix = make_mix(plan, capacities, config, taxonomy)   # quota by pool and task

With `mix.fill: unscored` the set is filled in three steps, each up to `mix.size`:

1. hard and easy rows at α, each once;
2. rows that were not scored this round, by the task weights, each once;
3. hard and easy rows at α, each up to `mix.max_repeat` times, in place of those of step 1.

α is the hard share of the scored rows. Example in pairs: 100 hard and 300 easy rows, 200 unscored ones, α 0.5,
`max_repeat` 2. A size of 150 gives 75 hard and 75 easy pairs; 350 gives 100 hard, 100 easy and 150 unscored ones; 500
gives 150 hard, 150 easy and 200 unscored ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from tapir_ray.config import Config
from tapir_ray.curriculum.difficulty import EASY, HARD, PROBE, UNSCORED
from tapir_ray.curriculum.plan import Plan
from tapir_ray.curriculum.quotas import Cell, apportion, quotas
from tapir_ray.curriculum.record import Record, shared_out
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.errors import StageError


class Mix(Record):
    """Quota table of a training set, in `unit`s (`tokens` or `pairs`)."""

    round: int
    unit: str
    size_asked: int | None
    size: int
    alpha_asked: float
    alpha: float
    """`alpha_asked`, moved if a pool was empty or too small and `on_small_pool` allows it."""
    share: float
    """Hard share of the quotas of scored rows: α to within one unit."""
    unscored: int
    """Units of rows that were not scored this round."""
    quota: dict[str, dict[str, int]]
    """By pool, then by task."""
    capacity: dict[str, dict[str, int]]
    """Upper bounds of the quotas, repeats of hard and easy rows included."""
    probes: dict[str, int]
    """Generated rows by task that are kept out of the set, for the next round to score them unseen."""
    weights: dict[str, float]
    absent_tasks: list[str]
    warnings: list[str]

    @property
    def table(self) -> dict[Cell, int]:
        """Quotas by (pool, task)."""
        return {(pool, task): size for pool, tasks in self.quota.items() for task, size in tasks.items()}


def make_mix(plan: Plan, capacities: Mapping[Cell, tuple[int, int]], config: Config, taxonomy: Taxonomy) -> Mix:
    """Returns the quota table of a round's training set.

    `capacities` are (rows, size) of every cell; a quota is at most `mix.max_repeat` times that. Raises StageError if no
    cell has a row, and if a pool is empty or too small while `on_small_pool` is `stop`.
    """
    policy = config.curriculum.difficulty.on_small_pool
    unit = 1 if config.mix.unit == "tokens" else 0
    asked, fills = config.mix.size, config.mix.fill == "unscored" and config.mix.size is not None
    pools = (HARD, EASY, UNSCORED) if fills else (HARD, EASY)
    weights = taxonomy.effective_weights({task for (pool, task) in capacities if pool in pools})
    once = {
        cell: found[unit]
        for cell, found in sorted(capacities.items())
        if cell[0] in (HARD, EASY) and cell[1] in weights
    }
    capacity = {cell: size * config.mix.max_repeat for cell, size in once.items()}
    spare = {task: found[unit] for (pool, task), found in sorted(capacities.items()) if pool == UNSCORED}
    spare = {task: size for task, size in spare.items() if task in weights} if fills else {}
    room = {pool: sum(size for cell, size in capacity.items() if cell[0] == pool) for pool in (HARD, EASY)}
    alpha, warnings = plan.alpha, []
    shortfall = f"the pools hold {room[HARD]} hard and {room[EASY]} easy {config.mix.unit} (repeats included)"
    shortfall += f" and {sum(spare.values())} unscored" if fills else ""
    empty = (room[HARD] == 0 and alpha > 0) or (room[EASY] == 0 and alpha < 1)
    filling = {} if empty else _filling(once, spare, asked, alpha, weights)
    table = _scored(once, capacity, asked, alpha, weights, filling)
    size = sum(table.values()) + sum(filling.values())
    if empty or size == 0 or (asked is not None and size < asked):
        if policy == "stop":
            raise StageError(f"round {plan.round}: {shortfall}, too few for mix.size at α = {alpha:g}; lower mix.size")
        # An empty pool moves α under every policy but `stop`: with the old α next to no row could be drawn.
        if empty or size == 0 or policy == "move_alpha":
            wanted = None if asked is None else asked - sum(filling.values())
            target = min(room[HARD] + room[EASY], wanted or room[HARD] + room[EASY])
            if target == 0:
                raise StageError(f"round {plan.round}: nothing to train on, {shortfall}; see the filters' reasons")
            # The nearest α that both pools can serve: the easy pool bounds it from below, the hard pool from above.
            alpha = min(max(alpha, 1 - room[EASY] / target), room[HARD] / target)
            filling = _filling(once, spare, asked, alpha, weights) if empty else filling
            table = _scored(once, capacity, asked, alpha, weights, filling)
            size = sum(table.values()) + sum(filling.values())
            warnings.append(f"{shortfall}: α moved from {plan.alpha:g} to {alpha:g}")
        else:
            warnings.append(f"{shortfall}: the mix is {size} instead of {asked} at α = {alpha:g}")
    absent = taxonomy.absent(weights)
    hard = sum(quota for (pool, _), quota in table.items() if pool == HARD)
    return Mix(
        round=plan.round,
        unit=config.mix.unit,
        size_asked=asked,
        size=size,
        alpha_asked=plan.alpha,
        alpha=alpha,
        share=hard / sum(table.values()),
        unscored=sum(filling.values()),
        quota=_nested(table) | ({UNSCORED: filling} if fills else {}),
        capacity=_nested(capacity) | ({UNSCORED: spare} if fills else {}),
        probes={task: rows for (pool, task), (rows, _) in sorted(capacities.items()) if pool == PROBE},
        weights=weights,
        absent_tasks=absent,
        warnings=warnings + shared_out(absent),
    )


def _filling(
    once: Mapping[Cell, int], spare: Mapping[str, int], asked: int | None, alpha: float, weights: Mapping[str, float]
) -> dict[str, int]:
    """Returns the quotas of unscored rows by task: what hard and easy rows, each once, leave of `asked`."""
    if asked is None or not spare:
        return {}
    left = asked - sum(quotas(once, asked, alpha, weights).values())
    return apportion(min(left, sum(spare.values())), spare, weights)


def _scored(
    once: Mapping[Cell, int],
    capacity: Mapping[Cell, int],
    asked: int | None,
    alpha: float,
    weights: Mapping[str, float],
    filling: Mapping[str, int],
) -> dict[Cell, int]:
    """Returns the quotas of hard and easy rows, without repeats if unscored rows fill the set up to `asked`."""
    if asked is None or not filling:
        return quotas(capacity, asked, alpha, weights)
    wanted = asked - sum(filling.values())
    table = quotas(once, wanted, alpha, weights)
    return table if sum(table.values()) == wanted else quotas(capacity, wanted, alpha, weights)


def _nested(table: Mapping[Cell, int]) -> dict[str, dict[str, int]]:
    return {pool: {task: size for (other, task), size in table.items() if other == pool} for pool in (HARD, EASY)}
