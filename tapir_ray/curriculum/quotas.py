"""The quota table: how many rows (or tokens) of each pool and task make up a set. Integers, exact, and in an order of
precedence: the challenge share α first, then the task weights, under what the cells hold.

    quotas({("hard", "Math"): 40, ("easy", "Math"): 10}, total=None, alpha=0.5, weights={"Math": 1.0})

The rule is a decision of this project (the paper states the shares, not what happens where a cell runs out).
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
    """The nearest integer; halves go up."""
    return math.floor(value + Fraction(1, 2))


def quotas(
    capacity: Mapping[Cell, int], total: int | None, alpha: float, weights: Mapping[str, float]
) -> dict[Cell, int]:
    """The quota of every cell of `capacity`, hard cells summing to round_half_up(α·T) and easy ones to the rest.

    T is the largest total, at most `total`, for which both pools can give their part. Within a pool of N the quotas
    minimise Σ_t (q_t − w_t·N)² / w_t under 0 ≤ q_t ≤ capacity, w being the weights of the pool's tasks scaled to sum
    to 1; ties go to the task first by name. A task without a weight gets nothing and its capacity counts for nothing:
    a weight of 0 means never. Raises ValueError for a negative capacity or an α outside 0..1.
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
    """The largest T ≤ `total` (None: no limit) with round_half_up(α·T) ≤ `hard` and the rest ≤ `easy`.

    Both parts grow with T, since α ≤ 1, so it is found by halving.
    """
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
    """`total` split over the tasks of `capacity` (all of positive weight), as `quotas` says.

    The real-valued optimum is min(capacity, λ·w) (water-filling). The objective is separable and convex, so the
    integer optimum lies less than the number of tasks from it, and adding units one by one to the task of the
    smallest increment (2q + 1)/w reaches it exactly, at any size of `total`. Raises ValueError where `total` does not
    fit.
    """
    if total > sum(capacity.values()):
        raise ValueError(f"{total} does not fit into {sum(capacity.values())}")
    share = {task: exact(weights[task]) for task in capacity}
    level = _water_level(total, capacity, share)
    quota = {
        task: max(0, math.floor(min(Fraction(size), level * share[task])) - len(capacity))
        for task, size in capacity.items()
    }
    queue = [((2 * quota[task] + 1) / share[task], task) for task in capacity if quota[task] < capacity[task]]
    heapq.heapify(queue)
    for _ in range(total - sum(quota.values())):
        _, task = heapq.heappop(queue)
        quota[task] += 1
        if quota[task] < capacity[task]:
            heapq.heappush(queue, ((2 * quota[task] + 1) / share[task], task))
    return quota


def exact(value: float) -> Fraction:
    """The decimal number that a float is written as: 0.3 is 3/10."""
    return Fraction(repr(float(value)))


def _water_level(total: int, capacity: Mapping[str, int], share: Mapping[str, Fraction]) -> Fraction:
    """λ with Σ min(capacity, λ·w) = total."""
    filled, open_share = 0, sum(share.values(), Fraction(0))
    for task in sorted(capacity, key=lambda task: capacity[task] / share[task]):
        level = (total - filled) / open_share
        if level * share[task] <= capacity[task]:
            return level
        filled += capacity[task]
        open_share -= share[task]
    return max((capacity[task] / share[task] for task in capacity), default=Fraction(0))
