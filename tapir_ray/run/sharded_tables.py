"""Tables of many parts that one pipeline writes: each is published as soon as its rows are there.

    tables = PartTables(run, "labelled", {"parts/00000": 1_000_000, "parts/00001": 1_000_000}, ("instruction_id",))
    rows = tables.remaining(rows, stage_cpus)                  # rows have the column `part`
    tables.write(rows, schema, rows_per_part=64, …)            # parts/00000/labelled, parts/00001/labelled

A table that is there is left out; of one that was begun the rows that are not in it yet are made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import ray

from tapir_ray.data.schemas import conform
from tapir_ray.run import blocks
from tapir_ray.run.resume import among, reopen_all
from tapir_ray.run.row_counter import Tally
from tapir_ray.run.tables import Tables

if TYPE_CHECKING:
    import ray.data

PART = pa.field("part", pa.string())
"""Column that says which part a row belongs to."""
WRITTEN = pa.schema([*blocks.WRITTEN, PART])


class PartTables:
    """The tables `PART/NAME` that are not finished; `rows` are the rows of every part.

    Of them `carried` come as failed rows of the table before, and do not count against the error rate of this one.
    """

    def __init__(
        self, run: Tables, name: str, rows: Mapping[str, int], key: blocks.Key, carried: Mapping[str, int] | None = None
    ) -> None:
        self._run, self.name, self._key = run, name, key
        self._carried = carried or {}
        self.rows = {part: count for part, count in rows.items() if not run.done(self.table(part))}
        begun = [part for part in self.rows if run.exists(self.table(part))]
        found = reopen_all([run.path(self.table(part)) for part in begun], run.fs, key)
        self._there = dict.fromkeys(self.rows, 0)
        self._keys: dict[str, list[ray.ObjectRef]] = {}
        for part, (count, keys) in zip(begun, found, strict=True):
            self._there[part] = count
            if count:
                self._keys[part] = [keys]

    @property
    def label(self) -> str:
        """What they are called together, in messages."""
        first, last = min(self.rows), max(self.rows)
        return self.table(first) if first == last else f"{first} to {self.table(last)}"

    def table(self, part: str) -> str:
        return f"{part}/{self.name}"

    def remaining(self, rows: ray.data.Dataset, stage_cpus: float) -> ray.data.Dataset:
        """The rows that no earlier attempt has written; lazy. Failed rows are among them."""
        if not self._keys:
            return rows
        return rows.map_batches(
            functools.partial(without_each, keys=self._keys, key=self._key),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=stage_cpus,
        )

    def write(
        self,
        rows: ray.data.Dataset,
        schema: pa.Schema,
        *,
        rows_per_part: int | None,
        stage_cpus: float,
        max_error_rate: float,
        drained: Callable[[], bool],
    ) -> None:
        """Run the pipeline behind `rows` (with the column `part`) and publish the tables as they become whole.

        Its rows are counted for the progress line of the tables' `name`, which may go on over several such pipelines.
        Blocks of at least `rows_per_part` rows are there for good as soon as they are written. `max_error_rate` is of
        all rows together: a part of which more failed is published once all are made, so that after an error its
        failed rows are asked again. Raises StageError and Stopped as `Tables.write`; what is published by then stays.
        """
        run, key = self._run, self._key
        folders = {part: run.path(self.table(part)) for part in self.rows}
        for folder in folders.values():
            run.fs.create_dir(folder, recursive=True)
        if run.progress is not None:
            run.progress.keep(self.name, sum(self._there.values()))
        failed = {part: -self._carried.get(part, 0) for part in self.rows}
        carried = -sum(failed.values())
        tally = Tally(run, self.label, sum(self.rows.values()), max_error_rate, drained, self.name, carried)
        rows = rows.map_batches(
            functools.partial(conform, schema=pa.schema([*schema, PART])),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=stage_cpus,
        )
        unpublished = set(self.rows)
        if any(self._there[part] < count for part, count in self.rows.items()):
            write = functools.partial(write_each, folders=folders, fs=run.fs, key=key)
            with closing(blocks.written(rows, write, rows_per_part, stage_cpus)) as written:
                for block in tally.counted(written):
                    part = block["part"]
                    self._there[part] += block["rows"]
                    failed[part] += block["failed"]
                    whole = block["rows"] and self._there[part] == self.rows[part]
                    if whole and failed[part] <= max_error_rate * self.rows[part]:
                        files = blocks.compact(folders[part], run.fs, key, stage_cpus)
                        # A row may have come twice, since an engine was lost after it: then others are still to come.
                        if _count(files, folders[part], run.fs) == self.rows[part]:
                            self._publish(part, files)
                            unpublished.remove(part)
        tally.check()
        for part in sorted(unpublished):
            self._publish(part, blocks.compact(folders[part], run.fs, key, stage_cpus))

    def _publish(self, part: str, files: list[str]) -> None:
        run, table = self._run, self.table(part)
        run.publish(table, files, expected=self.rows[part])
        blocks.tidy(run.path(table), run.fs, files)


def _count(files: list[str], folder: str, fs: pafs.FileSystem) -> int:
    count: int = pads.dataset([f"{folder}/{name}" for name in files], filesystem=fs, format="parquet").count_rows()
    return count


def write_each(block: pa.Table, folders: Mapping[str, str], fs: pafs.FileSystem, key: blocks.Key) -> pa.Table:
    """Write a block's rows into the folders of their parts; returns a WRITTEN row for each part."""
    found: list[dict[str, Any]] = []
    for part in pc.unique(block[PART.name]).to_pylist():
        rows = block.filter(pc.equal(block[PART.name], part)).drop_columns([PART.name])
        (summary,) = blocks.write_part(rows, folders[part], fs, key).to_pylist()
        found.append({**summary, "part": part})
    return pa.Table.from_pylist(found, WRITTEN)


def without_each(block: pa.Table, keys: Mapping[str, list[ray.ObjectRef]], key: blocks.Key) -> pa.Table:
    """The block's rows whose key is not among those of their part."""
    for part in pc.unique(block[PART.name]).to_pylist():
        if part in keys:
            there = among(blocks.keys_of(block, key), ray.get(keys[part][0]))
            block = block.filter(pc.invert(pc.and_(there, pc.equal(block[PART.name], part))))
    return block
