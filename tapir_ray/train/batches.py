"""Batches of packed sequences: the selection for each step, rank and forward pass, and the tensors.

reader = PackedReader(packed_dir, fs)
for rows in micro_batches(reader, step=0, global_batch_size=64, rank=0, world=2, micro=4):
    collate(rows, in_one_row(train))
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tapir_ray.config import Train
from tapir_ray.errors import StageError
from tapir_ray.train.chat import IGNORED

Packed = dict[str, np.ndarray]
"""A packed sequence: `input_ids`, `labels` and `position_ids`, all of one length."""


EMPTY: Packed = {
    "input_ids": np.zeros(1, np.int64),
    "labels": np.full(1, IGNORED),
    "position_ids": np.zeros(1, np.int64),
}
"""A sequence of one token outside the loss, for a forward pass without sequences in the last global batch."""


class PackedReader:
    """Random access to the sequences of a `packed` table. Keeps one row group in memory, so rising indices are fast."""

    def __init__(self, packed_dir: str, fs: pafs.FileSystem) -> None:
        """Raises StageError if a sequence is missing, on every worker alike, so that none waits for another."""
        files = fs.get_file_info(pafs.FileSelector(packed_dir))
        self.fs = fs
        self.groups: list[tuple[int, str, int]] = []
        """(index of the first sequence, file, row group) of every row group."""
        self.sequences = 0
        self._at = -1
        self._rows: list[tuple[Packed, list[str]]] = []
        for path in sorted(file.path for file in files if file.path.endswith(".parquet")):
            metadata = pq.read_metadata(path, filesystem=fs)
            column = metadata.schema.to_arrow_schema().get_field_index("seq_index")
            for group in range(metadata.num_row_groups):
                # The table is sorted by `seq_index`, so each row group must continue where the one before it ends.
                if metadata.row_group(group).column(column).statistics.min != self.sequences:
                    raise StageError(f"{path}: the packed table is not complete (sequence {self.sequences} is missing)")
                self.groups.append((self.sequences, path, group))
                self.sequences += metadata.row_group(group).num_rows

    def __getitem__(self, index: int) -> Packed:
        """The sequence with `seq_index` `index`. Raises IndexError."""
        rows, at = self._group_of(index)
        return rows[at][0]

    def take(self, indices: Sequence[int]) -> list[Packed]:
        """The sequences of those indices that exist, or [EMPTY] if none does.

        EMPTY keeps the number of forward passes equal on all ranks, as the collective calls of DeepSpeed need.
        """
        return [self[index] for index in indices if index < self.sequences] or [EMPTY]

    def pair_ids(self, indices: Sequence[int]) -> list[str]:
        """Ids of the pairs in these sequences, in order; indices beyond the last sequence are skipped."""
        found: list[str] = []
        for index in indices:
            if index < self.sequences:
                rows, at = self._group_of(index)
                found += rows[at][1]
        return found

    def _group_of(self, index: int) -> tuple[list[tuple[Packed, list[str]]], int]:
        """(rows of the row group with the sequence, position of the sequence among them); a row has its pair ids."""
        if not 0 <= index < self.sequences:
            raise IndexError(index)
        at = bisect.bisect_right(self.groups, index, key=lambda group: group[0]) - 1
        first, path, group = self.groups[at]
        if at != self._at:
            with pq.ParquetFile(path, filesystem=self.fs) as file:
                table = file.read_row_group(group, columns=[*EMPTY, "pair_ids"])
            pair_ids = table["pair_ids"].to_pylist()
            self._rows = [
                ({name: table[name][row].values.to_numpy().astype(np.int64) for name in EMPTY}, pair_ids[row])
                for row in range(len(table))
            ]
            self._at = at
        return self._rows, index - first


def micro_batches(
    reader: PackedReader, step: int, global_batch_size: int, rank: int, world: int, micro: int
) -> Iterator[list[Packed]]:
    """Yields this rank's share of global batch `step` in lists of up to `micro` sequences.

    Every rank and step gets the same number of lists.
    """
    indices = range(step * global_batch_size + rank, (step + 1) * global_batch_size, world)
    for start in range(0, len(indices), micro):
        yield reader.take(indices[start : start + micro])


def micro_batch_size(train: Train, world: int) -> int:
    """Sequences per forward pass: the largest divisor of a rank's share that is at most `train.micro_batch_size`."""
    share = train.global_batch_size // world
    return max(size for size in range(1, min(share, train.micro_batch_size) + 1) if share % size == 0)


def in_one_row(train: Train) -> bool:
    """Returns whether a batch is one long row: only then does FlashAttention keep packed conversations apart.

    Without packing a batch has one row per conversation, because some models never keep conversations apart.
    """
    return train.attention == "flash_attention_2" and train.packing


def collate(rows: Sequence[Packed], one_row: bool) -> dict[str, Any]:
    """Tensors `input_ids`, `labels`, `position_ids`, int64 of shape [batch, longest], or [1, sum] for `one_row`.

    Positions restart with every conversation and with the padding. Without an attention mask, transformers separates
    conversations by these restarts. Not every model does (see `cross_contamination.py`).
    """
    import torch

    if one_row:
        return {name: torch.from_numpy(np.concatenate([row[name] for row in rows]))[None] for name in rows[0]}
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {name: np.zeros((len(rows), longest), np.int64) for name in rows[0]}
    batch["labels"][:] = IGNORED
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        for name, values in row.items():
            batch[name][number, :length] = values
        batch["position_ids"][number, length:] = np.arange(longest - length)
    return {name: torch.from_numpy(values) for name, values in batch.items()}


def longest_first(lengths: Sequence[int], batch_size: int, max_tokens: int | None) -> Iterator[list[int]]:
    """Yields the index of every row once, longest row first, in batches of at most `batch_size` rows.

    With `max_tokens`, a batch padded to its longest row has at most that many tokens, unless it is a single row.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        rows = batch_size
        if max_tokens is not None:
            rows = min(rows, max(1, max_tokens // max(1, lengths[order[start]])))
        yield order[start : start + rows]
        start += rows
