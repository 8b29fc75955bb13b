"""Quota table of a training set, from a plan and the sizes of the pools: a pure function of counts.

mix = make_mix(plan, capacities, config, taxonomy)   # quota by pool and task
"""

from __future__ import annotations

from collections.abc import Mapping

from tapir_ray.config import Config
from tapir_ray.curriculum.difficulty import EASY, HARD
from tapir_ray.curriculum.plan import Plan
from tapir_ray.curriculum.quotas import Cell, quotas
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
    """Hard share of the quotas: α to within one unit."""
    quota: dict[str, dict[str, int]]
    """By pool, then by task."""
    capacity: dict[str, dict[str, int]]
    """Upper bounds of the quotas, repeats included."""
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
    weights = taxonomy.effective_weights({task for (pool, task) in capacities if pool in (HARD, EASY)})
    capacity = {
        cell: found[unit] * config.mix.max_repeat
        for cell, found in sorted(capacities.items())
        if cell[0] in (HARD, EASY) and cell[1] in weights
    }
    room = {pool: sum(size for cell, size in capacity.items() if cell[0] == pool) for pool in (HARD, EASY)}
    asked, alpha, warnings = config.mix.size, plan.alpha, []
    table = quotas(capacity, asked, alpha, weights)
    size = sum(table.values())
    shortfall = f"the pools hold {room[HARD]} hard and {room[EASY]} easy {config.mix.unit} (repeats included)"
    empty = (room[HARD] == 0 and alpha > 0) or (room[EASY] == 0 and alpha < 1)
    if empty or size == 0 or (asked is not None and size < asked):
        if policy == "stop":
            raise StageError(f"round {plan.round}: {shortfall}, too few for mix.size at α = {alpha:g}; lower mix.size")
        # An empty pool moves α under every policy but `stop`: with the old α next to no row could be drawn.
        if empty or size == 0 or policy == "move_alpha":
            target = min(room[HARD] + room[EASY], asked or room[HARD] + room[EASY])
            if target == 0:
                raise StageError(f"round {plan.round}: nothing to train on, {shortfall}; see the filters' reasons")
            # The nearest α that both pools can serve: the easy pool bounds it from below, the hard pool from above.
            alpha = min(max(alpha, 1 - room[EASY] / target), room[HARD] / target)
            table = quotas(capacity, asked, alpha, weights)
            size = sum(table.values())
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
        share=hard / size,
        quota=_nested(table),
        capacity=_nested(capacity),
        weights=weights,
        absent_tasks=absent,
        warnings=warnings + shared_out(absent),
    )


def _nested(table: Mapping[Cell, int]) -> dict[str, dict[str, int]]:
    return {pool: {task: size for (other, task), size in table.items() if other == pool} for pool in (HARD, EASY)}
