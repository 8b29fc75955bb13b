"""Sampling: the drawn rows depend only on ids, seed and plan, and every cell gets its quota."""

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.curriculum import sampling
from tapir_ray.curriculum.sampling import Cut, Cutoffs, boundary, count_cells, count_prefixes, cut_within, cutoffs, take

CELL = st.tuples(st.sampled_from(["hard", "easy"]), st.sampled_from(["Art", "Math"]))
ROWS = st.lists(st.tuples(CELL, st.integers(1, 9)), min_size=1, max_size=40)


def table(rows: list[tuple[tuple[str, str], int]]) -> pa.Table:
    return pa.table(
        {
            "instruction_id": [f"id {n}" for n in range(len(rows))],
            "pool": [pool for (pool, _), _ in rows],
            "task": [task for (_, task), _ in rows],
            "tokens": [size for _, size in rows],
        }
    )


def drawn(blocks: list[pa.Table], quota: dict[tuple[str, str], int], size_column: str | None, salt: int = 1) -> Counter:
    """The pure core of `cutoffs` and `take`, over blocks in the given order."""
    hashing = {"random_seed": 0, "salt": (salt,), "size_column": size_column}
    cells = {}
    for cell, size in quota.items():
        histogram = np.zeros(1 << sampling.PREFIX_BITS, np.int64)
        for block in blocks:
            for row in count_prefixes(block, **hashing).to_pylist():
                if (row["pool"], row["task"]) == cell:
                    histogram[row["prefix"]] += row["size_sum"]
        found = boundary(histogram, size, cell)
        candidates = []
        if found.prefix is not None:
            for block in blocks:
                for row in sampling.keys_at(block, prefixes={cell: found.prefix}, **hashing).to_pylist():
                    candidates.append((row["key"], row["size"]))
        cells[cell] = cut_within(found, candidates)
    chosen = Cutoffs(cells, 0, (salt,))
    taken = [row for block in blocks for row in sampling.take_table(block, chosen).to_pylist()]
    assert len({(row["instruction_id"], row["copy"]) for row in taken}) == len(taken)
    return Counter(row["instruction_id"] for row in taken)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.data())
def test_any_order_and_any_blocks_draw_the_same_rows(rows: list, data: st.DataObject) -> None:
    whole = table(rows)
    held = Counter(cell for cell, _ in rows)
    quota = {cell: data.draw(st.integers(1, 2 * n)) for cell, n in held.items()}
    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(0, len(rows)))
    shuffled = whole.take(pa.array(order))
    first = drawn([whole], quota, None)
    assert first == drawn([shuffled.slice(0, cut), shuffled.slice(cut)], quota, None)
    for cell, size in quota.items():
        times = [first[f"id {n}"] for n, (other, _) in enumerate(rows) if other == cell]
        assert sum(times) == size
        assert max(times) - min(times) <= 1, "fewest repeats"


@settings(max_examples=40, deadline=None)
@given(ROWS, st.data())
def test_a_quota_of_tokens_is_met_to_within_half_a_row(rows: list, data: st.DataObject) -> None:
    sizes = Counter()
    for cell, size in rows:
        sizes[cell] += size
    quota = {cell: data.draw(st.integers(1, 2 * n)) for cell, n in sizes.items()}
    times = drawn([table(rows)], quota, "tokens")
    for cell, size in quota.items():
        own = [(times[f"id {n}"], tokens) for n, (other, tokens) in enumerate(rows) if other == cell]
        largest = max(tokens for _, tokens in own)
        assert abs(sum(n * tokens for n, tokens in own) - size) <= largest / 2
        assert max(n for n, _ in own) - min(n for n, _ in own) <= 1


def test_another_round_draws_other_rows() -> None:
    rows = table([(("hard", "Math"), 1)] * 200)
    one, other = (drawn([rows], {("hard", "Math"): 50}, None, salt=salt) for salt in (1, 2))
    assert sum(one.values()) == sum(other.values()) == 50
    assert one != other


def test_rows_without_a_cell_are_never_drawn() -> None:
    rows = pa.table({"instruction_id": ["a", "b", "c"], "pool": ["hard", None, "unreliable"], "task": ["Math"] * 3})
    assert drawn([rows], {("hard", "Math"): 2}, None) == {"a": 2}


def test_a_quota_of_an_empty_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="no row"):
        boundary(np.zeros(1 << sampling.PREFIX_BITS, np.int64), 3, ("hard", "Math"))


def test_streaming_over_ray_draws_what_the_core_draws(ray_local: None) -> None:
    generator = random.Random(0)
    rows = table(
        [((generator.choice(["hard", "easy"]), generator.choice(["Art", "Math"])), 1 + n % 7) for n in range(3000)]
    )
    quota = {("hard", "Math"): 100, ("easy", "Art"): 1000, ("easy", "Math"): 0}
    blocks = [rows.slice(at, 500) for at in range(0, 3000, 500)]
    found = count_cells(ray.data.from_arrow(blocks), 0, (1,), "tokens")
    for pool, task in set(zip(rows["pool"].to_pylist(), rows["task"].to_pylist(), strict=True)):
        own = [row["tokens"] for row in rows.to_pylist() if (row["pool"], row["task"]) == (pool, task)]
        assert found.capacities[pool, task] == (len(own), sum(own))
    for unit, size_column in (("rows", None), ("size", "tokens")):
        chosen = cutoffs(ray.data.from_arrow(blocks), found, quota, unit)
        assert chosen.cells["hard", "Math"].copies == 0
        taken = take(ray.data.from_arrow(blocks[::-1]), chosen)
        ids = Counter(row["instruction_id"] for row in taken.iter_rows())
        assert ids == drawn([rows], {cell: size for cell, size in quota.items() if size}, size_column)


def test_a_quota_of_zero_draws_nothing(ray_local: None) -> None:
    rows = ray.data.from_arrow(table([(("hard", "Math"), 1)]))
    assert take(rows, cutoffs(rows, count_cells(rows, 0, (1,)), {("hard", "Math"): 0})).count() == 0


def test_a_whole_cell_is_taken_without_reading_keys() -> None:
    assert cut_within(boundary(np.array([0] * 255 + [4]), 8, ("hard", "Math")), []) == Cut(2, None)
