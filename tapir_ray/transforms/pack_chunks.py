"""How training pairs are cut for packing: into chunks, ranges of chunks, and tasks; a pure function of their number.

    cut = cut_for(10_000_000, pairs_per_chunk=4096)
    cut.chunk_of(key), cut.range_of(key)

A task that tokenises writes one row group for each range, and a task that packs reads its row group of every such file.
Row groups are tasks × ranges, so from some size on both grow as the square root of the pairs: there are then never more
row groups than pairs / ROWS_PER_GROUP, and the driver holds tasks + ranges of anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PAIRS_PER_CHUNK = 4096
"""Pairs sorted and packed together."""

PAIRS_PER_TASK = 16_384
"""Small source files are tokenised together up to this many rows, because a task first has to load the tokenizer."""

ROWS_PER_GROUP = 64
"""Rows that a row group of encoded pairs has at least, on average."""


@dataclass(frozen=True)
class Cut:
    """Where pairs belong by their `order_key`. Chunks decide the order; ranges and tasks only who does the work."""

    chunks: int
    chunks_per_range: int
    pairs_per_task: int

    @property
    def ranges(self) -> int:
        """Ranges of neighbouring chunks; one task packs a range, chunk by chunk."""
        return -(-self.chunks // self.chunks_per_range)

    def chunk_of(self, key: str) -> int:
        """The chunk of a key (hex of a uniform hash); it rises with the key."""
        return int(key[:12], 16) * self.chunks >> 48

    def range_of(self, key: str) -> int:
        """The range of a key."""
        return self.chunk_of(key) // self.chunks_per_range


def cut_for(pairs: int, pairs_per_chunk: int = PAIRS_PER_CHUNK) -> Cut:
    """How so many pairs are cut."""
    pairs_per_task = max(PAIRS_PER_TASK, math.isqrt(ROWS_PER_GROUP * pairs))
    chunks_per_range = -(-ROWS_PER_GROUP * pairs // (pairs_per_task * pairs_per_chunk))
    return Cut(max(1, -(-pairs // pairs_per_chunk)), max(1, chunks_per_range), pairs_per_task)
