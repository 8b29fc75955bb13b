"""Draws the rows of a quota table from a table of any length, as a stream and in any order.

    found = count_cells(rows, random_seed=0, salt=(1, "mix"))     # first pass; found.capacities bounds the quota
    chosen = cutoffs(rows, found, quota)                          # second pass
    sample = take(rows, chosen)                                   # lazy; adds the column `copy`

`count_cells` and `cutoffs` also accept a table in memory, whose sample is `take_table(rows, chosen)`.

Each row has a key, a uniform 128-bit hash of (instruction_id, random seed, salt). Every cell gives its rows with the
smallest keys, so the same plan gives the same rows, whatever their order and the number of blocks.

Rows need unique ids and the columns `instruction_id`, `pool` and `task`; a row without pool or task is in no cell. The
driver holds the counts by cell and key prefix, and the keys of one of the 256 prefixes of each cell.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.curriculum.quotas import Cell

PREFIX_BITS = 8
BATCH_ROWS = 65_536
KEY = np.dtype([("high", ">u8"), ("low", ">u8")])


@dataclass(frozen=True)
class Counts:
    """Number and size of a table's rows by cell and key prefix, with the seed and salt of the keys."""

    cells: Mapping[Cell, np.ndarray]
    """By (pool, task): number of rows and sum of their sizes by prefix, int64 of shape (2, prefixes)."""
    random_seed: int
    salt: tuple[object, ...]
    size_column: str | None
    """Column of a row's size; with None every row has size 1."""

    @property
    def capacities(self) -> dict[Cell, tuple[int, int]]:
        """Number of rows and their size, of every cell."""
        return {cell: (int(rows.sum()), int(sizes.sum())) for cell, (rows, sizes) in self.cells.items()}

    def histogram(self, cell: Cell, unit: Literal["rows", "size"]) -> np.ndarray:
        """Returns the rows or sizes of a cell by prefix, int64 of shape (prefixes,); zeros for a cell without rows."""
        rows, sizes = self.cells.get(cell, np.zeros((2, 1 << PREFIX_BITS), np.int64))
        return rows if unit == "rows" else sizes


@dataclass(frozen=True)
class Cut:
    """Draw of a cell: every row `copies` times, and the rows with a key of at most `last` once more."""

    copies: int
    last: bytes | None


@dataclass(frozen=True)
class Cutoffs:
    """Drawn sample: the cut of every (pool, task), with the seed and salt of the keys."""

    cells: Mapping[Cell, Cut]
    random_seed: int
    salt: tuple[object, ...]


def keys(ids: pa.Array | pa.ChunkedArray, random_seed: int, salt: tuple[object, ...]) -> np.ndarray:
    """Returns the 128-bit keys of the rows, as an array of KEY. Big-endian, so keys sort as their bytes do."""
    # Copying the hash state after seed and salt gives 1.8 million ids a second. `schemas.order_key`, which hashes the
    # id before the salt, gives 0.3 million.
    state = hashlib.blake2b(digest_size=16)
    for part in ("sample", str(random_seed), *map(str, salt)):
        # The length prefix keeps ("ab", "c") apart from ("a", "bc").
        state.update(len(part.encode()).to_bytes(8, "big") + part.encode())

    def digest(row_id: str) -> bytes:
        copy = state.copy()
        copy.update(row_id.encode())
        return copy.digest()

    return np.frombuffer(b"".join([digest(row_id) for row_id in ids.to_pylist()]), dtype=KEY)


def count_cells(
    rows: ray.data.Dataset | pa.Table,
    random_seed: int,
    salt: tuple[object, ...],
    size_column: str | None = None,
    transform_cpus: float = 0.1,
) -> Counts:
    """Counts the rows of every cell by key prefix, and sums their `size_column` (such as response tokens).

    `random_seed` and `salt` are those of the later draw.
    """
    counts: dict[Cell, np.ndarray] = defaultdict(lambda: np.zeros((2, 1 << PREFIX_BITS), np.int64))
    hashing = {"random_seed": random_seed, "salt": salt, "size_column": size_column}
    for batch in _stream(rows, count_prefixes, transform_cpus, **hashing):
        for pool, task, prefix, n, size in _tuples(batch):
            counts[pool, task][:, prefix] += (n, size)
    return Counts(dict(sorted(counts.items())), random_seed, salt, size_column)


def cutoffs(
    rows: ray.data.Dataset | pa.Table,
    found: Counts,
    quota: Mapping[Cell, int],
    unit: Literal["rows", "size"] = "size",
    transform_cpus: float = 0.1,
) -> Cutoffs:
    """Returns the cut of every cell with a quota above 0, with the fewest repeats of a row.

    `found` is the result of `count_cells` for the same rows; quotas are in rows, or in units of size. In a cell of
    total size S every row is taken quota // S times. Rows are then added by rising key until their size reaches the
    remainder. The last row is kept only if the sum is closer to the quota with it than without.

    Raises ValueError for a quota of a cell without rows.
    """
    boundaries = {cell: boundary(found.histogram(cell, unit), size, cell) for cell, size in quota.items() if size > 0}
    split = {cell: cut.prefix for cell, cut in boundaries.items() if cut.prefix is not None}
    # Only keys of the boundary's prefix come to the driver: 1 of 256 of a cell's rows.
    candidates: dict[Cell, list[tuple[bytes, int]]] = {cell: [] for cell in split}
    if split:
        column = found.size_column if unit == "size" else None
        hashing = {"random_seed": found.random_seed, "salt": found.salt, "size_column": column}
        for batch in _stream(rows, keys_at, transform_cpus, prefixes=split, **hashing):
            for pool, task, key, size in _tuples(batch):
                candidates[pool, task].append((key, size))
    cells = {cell: cut_within(cut, candidates.get(cell, [])) for cell, cut in boundaries.items()}
    return Cutoffs(cells, found.random_seed, found.salt)


def take(rows: ray.data.Dataset, chosen: Cutoffs, transform_cpus: float = 0.1) -> ray.data.Dataset:
    """Returns the drawn rows, each as often as it is drawn; `copy` = 0, 1, … numbers the repeats of a row. Lazy."""
    return rows.map_batches(
        functools.partial(take_table, chosen=chosen), batch_format="pyarrow", batch_size=None, num_cpus=transform_cpus
    )


@dataclass(frozen=True)
class Boundary:
    """Position of a cell's cut: full `copies`, then whole prefixes below `prefix`, then `rest` by key within it."""

    copies: int
    prefix: int | None
    rest: int
    below: bytes | None
    """Greatest possible key of the prefixes below `prefix`; None for the first prefix."""


def boundary(histogram: np.ndarray, quota: int, cell: Cell) -> Boundary:
    """Returns the boundary for `quota` in a cell whose sizes by key prefix are `histogram`.

    Raises ValueError for a cell without rows.
    """
    total = int(histogram.sum())
    if total == 0:
        raise ValueError(f"{quota} asked of {cell}, which has no row of any size")
    copies, rest = divmod(quota, total)
    if rest == 0:
        return Boundary(copies, None, 0, None)
    filled = np.cumsum(histogram)
    prefix = int(np.searchsorted(filled, rest, side="left"))
    before = int(filled[prefix - 1]) if prefix else 0
    below = (prefix << (128 - PREFIX_BITS)) - 1 if prefix else None
    return Boundary(copies, prefix, rest - before, None if below is None else below.to_bytes(16, "big"))


def cut_within(found: Boundary, candidates: list[tuple[bytes, int]]) -> Cut:
    """Returns the exact cut, from the keys and sizes of the rows at the boundary's prefix."""
    last, filled = found.below, 0
    for key, size in sorted(candidates):
        if abs(filled + size - found.rest) >= abs(filled - found.rest) and filled + size > found.rest:
            break
        last, filled = key, filled + size
        if filled >= found.rest:
            break
    return Cut(found.copies, last)


def count_prefixes(rows: pa.Table, random_seed: int, salt: tuple[object, ...], size_column: str | None) -> pa.Table:
    """Counts one block by cell and key prefix. Columns: pool, task, prefix, number of rows, sum of sizes."""
    cells = _cells(rows, size_column)
    prefix = _prefix(keys(cells["instruction_id"], random_seed, salt))
    grouped = cells.append_column("prefix", pa.array(prefix, pa.int64())).group_by(["pool", "task", "prefix"])
    counted = grouped.aggregate([("size", "count"), ("size", "sum")])
    return counted.select(["pool", "task", "prefix", "size_count", "size_sum"])


def keys_at(
    rows: pa.Table,
    prefixes: Mapping[Cell, int],
    random_seed: int,
    salt: tuple[object, ...],
    size_column: str | None,
) -> pa.Table:
    """Returns the rows of one block that have their cell's boundary prefix: pool, task, key (16 bytes), size."""
    cells = _cells(rows, size_column)
    found = keys(cells["instruction_id"], random_seed, salt)
    code, names = _cell_codes(cells)
    wanted = np.array([prefixes.get(name, -1) for name in names], np.int64)
    chosen = np.flatnonzero(wanted[code] == _prefix(found)) if len(cells) else np.zeros(0, np.int64)
    key = pa.array([found[index].tobytes() for index in chosen], pa.binary())
    return (
        cells.take(pa.array(chosen))
        .select(["pool", "task"])
        .append_column("key", key)
        .append_column("size", cells["size"].take(pa.array(chosen)))
    )


def take_table(rows: pa.Table, chosen: Cutoffs) -> pa.Table:
    """Returns the drawn rows of one block, repeated, with the column `copy`."""
    valid = pc.and_(pc.is_valid(rows["pool"]), pc.is_valid(rows["task"]))
    kept = rows.filter(valid)
    found = keys(kept["instruction_id"], chosen.random_seed, chosen.salt)
    code, names = _cell_codes(kept)
    cuts = [chosen.cells.get(name, Cut(0, None)) for name in names]
    copies = np.array([cut.copies for cut in cuts], np.int64)[code]
    # numpy has no 128-bit integer, so keys are compared as two halves. Zero bytes mean "no cut"; `partial` masks them.
    last = np.frombuffer(b"".join(cut.last or bytes(16) for cut in cuts), dtype=KEY)[code]
    partial = np.array([cut.last is not None for cut in cuts], bool)[code]
    smaller = (found["high"] < last["high"]) | ((found["high"] == last["high"]) & (found["low"] <= last["low"]))
    times = copies + (partial & smaller)
    index = np.repeat(np.arange(len(kept)), times)
    # A running index within each run of repeats: 0, 1, … for every row.
    copy = np.arange(len(index)) - np.repeat(np.cumsum(times) - times, times)
    return kept.take(pa.array(index)).append_column("copy", pa.array(copy, pa.int64()))


def _cells(rows: pa.Table, size_column: str | None) -> pa.Table:
    size = rows[size_column].cast(pa.int64()) if size_column else pa.array(np.ones(len(rows), np.int64))
    cells = rows.select(["instruction_id", "pool", "task"]).append_column("size", size)
    return cells.filter(pc.and_(pc.is_valid(cells["pool"]), pc.is_valid(cells["task"])))


def _cell_codes(rows: pa.Table) -> tuple[np.ndarray, list[Cell]]:
    """Returns the cell of each row as an index, and the list of cells that it points into."""
    # Every chunk of a ChunkedArray has a dictionary of its own: without `unify_dictionaries` their indices differ.
    pool = pc.dictionary_encode(rows["pool"]).unify_dictionaries().combine_chunks()
    task = pc.dictionary_encode(rows["task"]).unify_dictionaries().combine_chunks()
    pools, tasks = pool.dictionary.to_pylist(), task.dictionary.to_pylist()
    code = pool.indices.to_numpy(zero_copy_only=False) * len(tasks) + task.indices.to_numpy(zero_copy_only=False)
    return code.astype(np.int64), [(one, other) for one in pools for other in tasks]


def _prefix(found: np.ndarray) -> np.ndarray:
    return (found["high"] >> np.uint64(64 - PREFIX_BITS)).astype(np.int64)


def _stream(
    rows: ray.data.Dataset | pa.Table, function: Callable[..., pa.Table], transform_cpus: float, **kwargs: Any
) -> Iterator[pa.Table]:
    """Maps `function` over the columns that it needs, and streams its small tables to the driver."""
    columns = ["instruction_id", "pool", "task", *([kwargs["size_column"]] if kwargs["size_column"] else [])]
    if isinstance(rows, pa.Table):
        yield function(rows.select(columns), **kwargs)
        return
    small = rows.select_columns(columns).map_batches(
        functools.partial(function, **kwargs), batch_format="pyarrow", batch_size=BATCH_ROWS, num_cpus=transform_cpus
    )
    yield from small.iter_batches(batch_format="pyarrow", batch_size=None)


def _tuples(batch: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)
