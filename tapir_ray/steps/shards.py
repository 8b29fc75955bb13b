"""Shards of a dataset: ranges of rows in the files of one table, or one table a shard.

for group in groups(cut_table(run, layout.ingested, 1_000_000), at_once=16):
    rows = read(run.fs, group, transform_cpus)          # one pipeline; the column `shard` names the shard of a row
"""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray.data

from tapir_ray.data.schemas import with_columns
from tapir_ray.run.layout import Table, shard_dir
from tapir_ray.run.sharded_tables import SHARD
from tapir_ray.run.tables import Tables

FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` − 1 of a file."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """Shard of a dataset; `name` is its folder in the run, such as `shards/00000`."""

    name: str
    spans: tuple[Span, ...]

    @property
    def number(self) -> str:
        """Last part of the name: `00000`."""
        return posixpath.basename(self.name)

    @property
    def rows(self) -> int:
        return sum(span.stop - span.start for span in self.spans)


def cut(files: Iterable[tuple[str, int]], rows: int) -> list[Shard]:
    """Cuts files, given as (path, rows), into shards of `rows` rows; the last shard may have fewer."""
    shards: list[Shard] = []
    spans: list[Span] = []
    room = rows

    def close() -> None:
        shards.append(Shard(shard_dir(len(shards)), tuple(spans)))
        spans.clear()

    for file, count in files:
        start = 0
        while start < count:
            stop = min(count, start + room)
            spans.append(Span(file, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                close()
                room = rows
    if spans:
        close()
    return shards


def cut_table(run: Tables, table: Table, rows: int) -> list[Shard]:
    """Returns the shards of a finished table; deterministic."""
    return cut(_counted(run, table), rows)


def own_table(run: Tables, shard: Shard, table: Table) -> Shard:
    """Returns the shard over the rows of its own finished table."""
    return Shard(shard.name, tuple(Span(file, 0, count) for file, count in _counted(run, table.of(shard.name))))


def groups(shards: Sequence[Shard], at_once: int) -> Iterator[Sequence[Shard]]:
    """Yields the shards, `at_once` at a time."""
    for first in range(0, len(shards), at_once):
        yield shards[first : first + at_once]


def read(fs: pafs.FileSystem, shards: Iterable[Shard], transform_cpus: float) -> ray.data.Dataset:
    """Returns the rows of the shards, one shard after the other, with the column `shard`. Lazy."""
    items = [
        {"shard": shard.name, "file": span.file, "start": span.start, "stop": span.stop}
        for shard in shards
        for span in shard.spans
    ]
    # One block a span: a span is read by one task.
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        functools.partial(read_span, fs=fs), batch_size=1, batch_format="pyarrow", num_cpus=transform_cpus
    )


def read_span(batch: pa.Table, fs: pafs.FileSystem) -> pa.Table:
    """Returns the rows of the single span (shard, file, start, stop) in the batch, with the column `shard`."""
    (span,) = batch.to_pylist()
    rows = pq.read_table(span["file"], filesystem=fs).slice(span["start"], span["stop"] - span["start"])
    return with_columns(rows, **{SHARD.name: span["shard"]})


def _counted(run: Tables, table: Table) -> list[tuple[str, int]]:
    """Returns a table's files with their number of rows, from the Parquet footers."""
    files = run.files(table)

    def count(file: str) -> int:
        rows: int = pq.read_metadata(file, filesystem=run.fs).num_rows
        return rows

    # On an object store every footer costs a round trip.
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return list(zip(files, pool.map(count, files), strict=True))
