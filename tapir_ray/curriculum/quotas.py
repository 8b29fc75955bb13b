"""Quota table: the number of rows (or tokens) that each pool and task gives to a set. Exact integer arithmetic.

    quotas({("hard", "Math"): 40, ("easy", "Math"): 10}, total=None, alpha=0.5, weights={"Math": 1.0})
    # {("hard", "Math"): 11, ("easy", "Math"): 10}: 21 is the largest total, round_half_up(0.5 · 21) = 11

The challenge share α takes precedence over the task weights, and no cell gives more than it holds. The paper states the
shares, but not what to do if a cell runs out; that rule is this project's.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from fractions import Fraction

from tapir_ray.curriculum.difficulty import EASY, HARD

Cell = tuple[str, str]
"""(pool, task)"""


def round_half_up(value: Fraction) -> int:
    """Returns the nearest integer; halves are rounded up."""
    return math.floor(value + Fraction(1, 2))


def quotas(
    capacity: Mapping[Cell, int], total: int | None, alpha: float, weights: Mapping[str, float]
) -> dict[Cell, int]:
    """Returns the quota of every cell of `capacity`; hard cells sum to round_half_up(α·T), easy cells to the rest.

    T is the largest total, at most `total`, for which both pools can give their share. Within a pool of N units the
    quotas minimise Σ_t (q_t − w_t·N)² / w_t under 0 ≤ q_t ≤ capacity; w are the weights of the pool's tasks, scaled to
    sum to 1. Ties go to the task that comes first by name. A task without a weight, or of weight 0, gets 0 and its
    capacity is ignored. Raises ValueError for a negative capacity or an α outside 0..1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}, not within 0..1")
    if any(size < 0 for size in capacity.values()):
        raise ValueError("a cell's capacity is negative")
    pools: dict[str, dict[str, int]] = {HARD: {}, EASY: {}}
    for (pool, task), size in capacity.items():
        if weights.get(task, 0.0) > 0.0:
            pools[pool][task] = size
    hard, easy = sum(pools[HARD].values()), sum(pools[EASY].values())
    size = largest_total(hard, easy, total, alpha)
    n_hard = round_half_up(exact(alpha) * size)
    parts = {HARD: n_hard, EASY: size - n_hard}
    shares = {pool: apportion(parts[pool], tasks, weights) for pool, tasks in pools.items()}
    return {(pool, task): shares[pool].get(task, 0) for pool, task in capacity}


def largest_total(hard: int, easy: int, total: int | None, alpha: float) -> int:
    """Returns the largest T ≤ `total` (None: no limit) with round_half_up(α·T) ≤ `hard` and the rest ≤ `easy`."""
    # Binary search: neither part falls as T grows, since α ≤ 1.
    share = exact(alpha)
    low, high = 0, hard + easy if total is None else min(total, hard + easy)
    while low < high:
        middle = (low + high + 1) // 2
        n_hard = round_half_up(share * middle)
        if n_hard <= hard and middle - n_hard <= easy:
            low = middle
        else:
            high = middle - 1
    return low


def apportion(total: int, capacity: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, int]:
    """Splits `total` over the tasks of `capacity` (all of positive weight) by the rule of `quotas`.

    The real-valued optimum is min(capacity, λ·w) (water-filling). The objective is separable and convex, so every
    integer quota is within the number of tasks of it. From that far below, adding units one by one to the task of the
    smallest increment (2q + 1)/w reaches the optimum exactly, in a time that does not grow with `total`.

    Raises ValueError if `total` is more than the capacities hold.
    """
    if total > sum(capacity.values()):
        raise ValueError(f"{total} does not fit into {sum(capacity.values())}")
    share = {task: exact(weights[task]) for task in capacity}
    level = _water_level(total, capacity, share)
    quota = {
        task: max(0, math.floor(min(Fraction(size), level * share[task])) - len(capacity))
        for task, size in capacity.items()
    }
    # (2q + 1)/w is the increase of (q − w·N)²/w by one more unit, apart from a constant that all tasks share.
    queue = [((2 * quota[task] + 1) / share[task], task) for task in capacity if quota[task] < capacity[task]]
    heapq.heapify(queue)
    for _ in range(total - sum(quota.values())):
        _, task = heapq.heappop(queue)
        quota[task] += 1
        if quota[task] < capacity[task]:
            heapq.heappush(queue, ((2 * quota[task] + 1) / share[task], task))
    return quota


def exact(value: float) -> Fraction:
    """Returns the decimal number that a float is written as: `exact(0.3)  # 3/10`."""
    return Fraction(repr(float(value)))


def _water_level(total: int, capacity: Mapping[str, int], share: Mapping[str, Fraction]) -> Fraction:
    """Returns λ with Σ min(capacity, λ·w) = total."""
    filled, open_share = 0, sum(share.values(), Fraction(0))
    for task in sorted(capacity, key=lambda task: capacity[task] / share[task]):
        level = (total - filled) / open_share
        if level * share[task] <= capacity[task]:
            return level
        filled += capacity[task]
        open_share -= share[task]
    return max((capacity[task] / share[task] for task in capacity), default=Fraction(0))
