"""The quota table: equal to brute force on small cases, and its guarantees at any size."""

import itertools
import time
from collections.abc import Mapping
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.curriculum.quotas import apportion, exact, largest_total, quotas, round_half_up

ALPHA = st.integers(0, 20).map(lambda n: n / 20)
WEIGHT = st.sampled_from([0.017, 0.041, 0.083, 0.167, 0.5, 1.0])
TASKS = st.sampled_from(["Art", "Grammar", "Law", "Math"])


def cost(quota: Mapping[str, int], total: int, weights: Mapping[str, float]) -> Fraction:
    share = {task: exact(weights[task]) for task in quota}
    scale = sum(share.values())
    return sum(((q - share[t] / scale * total) ** 2 / (share[t] / scale) for t, q in quota.items()), Fraction(0))


@given(st.dictionaries(TASKS, st.tuples(st.integers(0, 6), WEIGHT), min_size=1), st.data())
def test_a_pool_is_split_as_brute_force_splits_it(tasks: dict[str, tuple[int, float]], data: st.DataObject) -> None:
    capacity = {task: size for task, (size, _) in tasks.items()}
    weights = {task: weight for task, (_, weight) in tasks.items()}
    total = data.draw(st.integers(0, sum(capacity.values())))
    quota = apportion(total, capacity, weights)
    assert sum(quota.values()) == total
    assert all(0 <= quota[task] <= capacity[task] for task in capacity)
    every = (
        dict(zip(capacity, split, strict=True))
        for split in itertools.product(*(range(size + 1) for size in capacity.values()))
        if sum(split) == total
    )
    assert cost(quota, total, weights) == min(cost(split, total, weights) for split in every)


@given(st.integers(0, 40), st.integers(0, 40), st.none() | st.integers(0, 90), ALPHA)
def test_the_total_is_the_largest_that_alpha_allows(hard: int, easy: int, asked: int | None, alpha: float) -> None:
    def fits(total: int) -> bool:
        n_hard = round_half_up(exact(alpha) * total)
        return n_hard <= hard and total - n_hard <= easy

    limit = hard + easy if asked is None else min(asked, hard + easy)
    assert largest_total(hard, easy, asked, alpha) == max(t for t in range(limit + 1) if fits(t))


CELLS = st.dictionaries(st.tuples(st.sampled_from(["hard", "easy"]), TASKS), st.integers(0, 10**10))


@given(CELLS, st.none() | st.integers(0, 10**10), ALPHA, st.dictionaries(TASKS, WEIGHT | st.just(0.0)))
def test_alpha_wins_over_the_weights_at_any_size(
    capacity: dict[tuple[str, str], int], asked: int | None, alpha: float, weights: dict[str, float]
) -> None:
    table = quotas(capacity, asked, alpha, weights)
    assert table.keys() == capacity.keys()
    assert all(0 <= table[cell] <= capacity[cell] for cell in capacity)
    assert all(table[pool, task] == 0 for pool, task in table if not weights.get(task))
    total = sum(table.values())
    hard = sum(size for (pool, _), size in table.items() if pool == "hard")
    assert asked is None or total <= asked
    assert hard == round_half_up(exact(alpha) * total)


def test_weights_are_met_if_every_cell_has_enough() -> None:
    capacity = {(pool, task): 100 for pool in ("hard", "easy") for task in ("Math", "Art")}
    table = quotas(capacity, 100, 0.4, {"Math": 0.8, "Art": 0.2})
    assert table == {("hard", "Math"): 32, ("hard", "Art"): 8, ("easy", "Math"): 48, ("easy", "Art"): 12}


def test_a_tie_goes_to_the_task_first_by_name() -> None:
    assert apportion(1, {"b": 5, "a": 5, "c": 5}, {"a": 0.2, "b": 0.2, "c": 0.2}) == {"b": 0, "a": 1, "c": 0}


def test_an_empty_easy_pool_gives_nothing_unless_all_is_hard() -> None:
    assert sum(quotas({("hard", "Math"): 9}, None, 0.3, {"Math": 1.0}).values()) == 0
    assert sum(quotas({("hard", "Math"): 9}, None, 1.0, {"Math": 1.0}).values()) == 9


def test_a_billion_tokens_over_all_tasks_are_split_quickly() -> None:
    tasks = [f"task {n}" for n in range(40)]
    capacity = {(pool, task): 10**8 + 7 * n for pool in ("hard", "easy") for n, task in enumerate(tasks)}
    start = time.perf_counter()
    table = quotas(capacity, 10**9, 0.3, {task: 0.017 + n / 1000 for n, task in enumerate(tasks)})
    assert sum(table.values()) == 10**9
    assert time.perf_counter() - start < 2.0
