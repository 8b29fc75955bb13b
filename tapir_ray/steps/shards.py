"""A dataset cut into parts: ranges of rows in the files of one table, or a table of each part's own.

for group in groups(cut_table(run, "seed/ingested", 1_000_000), at_once=16):
    rows = read(run.fs, group, stage_cpus)          # one pipeline, the column `part` in its rows
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray.data

from tapir_ray.data.schemas import with_columns
from tapir_ray.run.sharded_tables import PART
from tapir_ray.run.tables import Tables

FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class Span:
    """The rows `start` to `stop` (which is not in it) of a file."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """A part of the dataset; `name` is its folder in the run."""

    name: str
    spans: tuple[Span, ...]

    @property
    def rows(self) -> int:
        return sum(span.stop - span.start for span in self.spans)


def cut(files: Iterable[tuple[str, int]], rows: int) -> list[Part]:
    """Parts of `rows` rows, the last one of what is left, of files (path, rows) in their order."""
    parts: list[Part] = []
    spans: list[Span] = []
    room = rows

    def close() -> None:
        parts.append(Part(f"parts/{len(parts):05d}", tuple(spans)))
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
    return parts


def cut_table(run: Tables, table: str, rows: int) -> list[Part]:
    """The parts of a finished table, the same each time."""
    return cut(_counted(run, table), rows)


def own_table(run: Tables, part: Part, name: str) -> Part:
    """The same part with the rows of its finished table `PART/NAME`."""
    return Part(part.name, tuple(Span(file, 0, count) for file, count in _counted(run, f"{part.name}/{name}")))


def groups(parts: Sequence[Part], at_once: int) -> Iterator[Sequence[Part]]:
    """The parts, `at_once` at a time."""
    for first in range(0, len(parts), at_once):
        yield parts[first : first + at_once]


def read(fs: pafs.FileSystem, parts: Iterable[Part], stage_cpus: float) -> ray.data.Dataset:
    """The rows of the parts, one part after the other, with the column `part`; lazy."""
    items = [
        {"part": part.name, "file": span.file, "start": span.start, "stop": span.stop}
        for part in parts
        for span in part.spans
    ]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        functools.partial(read_span, fs=fs), batch_size=1, batch_format="pyarrow", num_cpus=stage_cpus
    )


def read_span(batch: pa.Table, fs: pafs.FileSystem) -> pa.Table:
    """The rows of the one span (part, file, start, stop) in the batch, with the column `part`."""
    (span,) = batch.to_pylist()
    rows = pq.read_table(span["file"], filesystem=fs).slice(span["start"], span["stop"] - span["start"])
    return with_columns(rows, **{PART.name: span["part"]})


def _counted(run: Tables, table: str) -> list[tuple[str, int]]:
    """A table's files with their rows, which their footers say."""
    files = run.files(table)

    def count(file: str) -> int:
        rows: int = pq.read_metadata(file, filesystem=run.fs).num_rows
        return rows

    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return list(zip(files, pool.map(count, files), strict=True))
