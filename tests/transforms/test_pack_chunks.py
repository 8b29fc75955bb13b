"""The cut into chunks: fixed chunk sizes, large row groups, and a bounded amount of data in the driver."""

from __future__ import annotations

import pytest

from tapir_ray.data.schemas import order_key
from tapir_ray.transforms.pack_chunks import PAIRS_PER_CHUNK, PAIRS_PER_TASK, ROWS_PER_GROUP, cut_for


def tasks(pairs: int) -> int:
    """Returns the number of tokenising tasks, for small source files."""
    return -(-pairs // cut_for(pairs).pairs_per_task)


@pytest.mark.parametrize("pairs", [0, 1, 4096, 4097, 52_000, 900_000])
def test_a_small_training_set_is_packed_chunk_by_chunk(pairs: int) -> None:
    cut = cut_for(pairs)
    assert cut.ranges == cut.chunks == max(1, -(-pairs // PAIRS_PER_CHUNK))
    assert cut.pairs_per_task == PAIRS_PER_TASK


@pytest.mark.parametrize("pairs", [10**6, 10**7, 10**8, 10**9])
def test_neither_the_driver_nor_the_files_grow_with_the_square_of_the_pairs(pairs: int) -> None:
    """A map of each task's row groups once had 1.5 million entries in the driver for 10 million pairs, of 7 rows
    each."""
    cut = cut_for(pairs)
    assert cut.chunks == -(-pairs // PAIRS_PER_CHUNK)
    assert tasks(pairs) * cut.ranges <= 1.1 * pairs / ROWS_PER_GROUP, "row groups would have fewer rows"
    grown = cut_for(100 * pairs)
    assert tasks(100 * pairs) + grown.ranges <= 20 * (tasks(pairs) + cut.ranges), "lists in the driver"
    largest = max(cut.pairs_per_task, cut.chunks_per_range * PAIRS_PER_CHUNK)
    assert largest <= 9 * pairs**0.5 + PAIRS_PER_TASK, "pairs in one task"


def test_ranges_are_adjacent_chunks_in_the_order_of_the_keys() -> None:
    cut = cut_for(10**7)
    assert cut.chunks_per_range > 1
    keys = sorted(order_key(str(number), 0, 0) for number in range(3000))
    chunks = [cut.chunk_of(key) for key in keys]
    ranges = [cut.range_of(key) for key in keys]
    assert chunks == sorted(chunks) and ranges == sorted(ranges)
    assert cut.chunk_of("f" * 32) == cut.chunks - 1 and cut.range_of("f" * 32) == cut.ranges - 1
    assert cut.chunk_of("0" * 32) == cut.range_of("0" * 32) == 0
    assert all(number == chunk // cut.chunks_per_range for number, chunk in zip(ranges, chunks, strict=True))
