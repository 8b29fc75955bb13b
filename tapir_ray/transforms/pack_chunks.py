"""Division of training pairs for packing, into chunks, ranges of chunks and tasks: a pure function of their number.

    cut = cut_for(10_000_000, pairs_per_chunk=4096)
    cut.chunk_of(key), cut.range_of(key)

A tokenising task writes one row group for each range. A packing task reads its row group of every such file. There are
tasks × ranges row groups, so for large data both numbers grow as the square root of the pairs. Then there are at most
pairs / ROWS_PER_GROUP row groups, and the driver holds tasks + ranges references.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PAIRS_PER_CHUNK = 4096
"""Pairs that are sorted and packed together."""

PAIRS_PER_TASK = 16_384
"""Fewest pairs that one task tokenises: small files share a task, because every task first loads the tokenizer."""

ROWS_PER_GROUP = 64
"""Fewest rows of a row group of encoded pairs, on average."""


@dataclass(frozen=True)
class Cut:
    """Division of pairs by their `order_key`. Chunks decide the order; ranges and tasks only divide the work."""

    chunks: int
    chunks_per_range: int
    pairs_per_task: int

    @property
    def ranges(self) -> int:
        """Number of ranges of neighbouring chunks; one task packs a range, chunk by chunk."""
        return -(-self.chunks // self.chunks_per_range)

    def chunk_of(self, key: str) -> int:
        """Returns the chunk of a key (hex of a uniform hash); it rises with the key."""
        # 12 hex digits are 48 bits: scales the key to 0 … chunks − 1 in integers.
        return int(key[:12], 16) * self.chunks >> 48

    def range_of(self, key: str) -> int:
        """Returns the range of a key."""
        return self.chunk_of(key) // self.chunks_per_range


def cut_for(pairs: int, pairs_per_chunk: int = PAIRS_PER_CHUNK) -> Cut:
    """Returns the division of `pairs` pairs."""
    pairs_per_task = max(PAIRS_PER_TASK, math.isqrt(ROWS_PER_GROUP * pairs))
    chunks_per_range = -(-ROWS_PER_GROUP * pairs // (pairs_per_task * pairs_per_chunk))
    return Cut(max(1, -(-pairs // pairs_per_chunk)), max(1, chunks_per_range), pairs_per_task)
