"""Tables of many shards, written by one pipeline: each is published as soon as it has all its rows.

    tables = ShardedTables(run, layout.labelled, {"shards/00000": 1_000_000, "shards/00001": 1_000_000})
    rows = tables.remaining(rows, transform_cpus)                  # rows have the column `shard`
    tables.write(rows, rows_per_block=64, …)                       # shards/00000/labelled, shards/00001/labelled

Finished tables are left out. An unfinished table is resumed: only its missing rows are made.
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
from tapir_ray.run.layout import Table
from tapir_ray.run.resume import among, resume_tables
from tapir_ray.run.row_counter import RowCounter
from tapir_ray.run.tables import Tables

if TYPE_CHECKING:
    import ray.data

SHARD = pa.field("shard", pa.string())
"""Column with the shard of a row, such as `shards/00000`."""
WRITTEN = pa.schema([*blocks.WRITTEN, SHARD])


class ShardedTables:
    """The unfinished tables among `table.of(shard)`, with the number of rows of each shard in `rows`.

    `carried` is the number of rows, by shard, that had failed in an earlier table. They do not count towards the error
    rate of this one.
    """

    def __init__(
        self, run: Tables, table: Table, rows: Mapping[str, int], carried: Mapping[str, int] | None = None
    ) -> None:
        self._run, self._table, self._key = run, table, table.key
        self._carried = carried or {}
        self.rows = {shard: count for shard, count in rows.items() if not run.done(self.table(shard))}
        begun = [shard for shard in self.rows if run.exists(self.table(shard))]
        found = resume_tables([run.path(self.table(shard)) for shard in begun], run.fs, table.key)
        self._there = dict.fromkeys(self.rows, 0)
        self._keys: dict[str, list[ray.ObjectRef]] = {}
        for shard, (count, keys) in zip(begun, found, strict=True):
            self._there[shard] = count
            if count:
                self._keys[shard] = [keys]

    @property
    def label(self) -> str:
        """Name of all the tables for messages, such as `shards/00000 to shards/00003/labelled`."""
        first, last = min(self.rows), max(self.rows)
        return self.table(first) if first == last else f"{first} to {self.table(last)}"

    def table(self, shard: str) -> str:
        """Returns the path of a shard's table."""
        return self._table.of(shard).path

    def remaining(self, rows: ray.data.Dataset, transform_cpus: float) -> ray.data.Dataset:
        """Returns the rows that earlier attempts have not written, or that failed there: a lazy dataset."""
        if not self._keys:
            return rows
        return rows.map_batches(
            functools.partial(without_each, keys=self._keys, key=self._key),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=transform_cpus,
        )

    def write(
        self,
        rows: ray.data.Dataset,
        *,
        rows_per_block: int | None,
        transform_cpus: float,
        max_error_rate: float,
        drained: Callable[[], bool],
    ) -> None:
        """Runs the pipeline behind `rows`, which have a column `shard`, and publishes each table when it is complete.

        Rows count for the progress line with the tables' name, which several pipelines may share. Blocks of at least
        `rows_per_block` rows survive a crash as soon as they are written.

        `max_error_rate` applies to all rows together. A shard with more failed rows is published only after the last
        one, so that after an error its failed rows are asked again. Raises StageError and Stopped as `Tables.write`
        does; tables that are published by then stay.
        """
        run, key = self._run, self._key
        folders = {shard: run.path(self.table(shard)) for shard in self.rows}
        for folder in folders.values():
            run.fs.create_dir(folder, recursive=True)
        if run.progress is not None:
            run.progress.keep(self._table.name, sum(self._there.values()))
        failed = {shard: -self._carried.get(shard, 0) for shard in self.rows}
        carried = -sum(failed.values())
        tally = RowCounter(run, self.label, sum(self.rows.values()), max_error_rate, drained, self._table.name, carried)
        rows = rows.map_batches(
            functools.partial(conform, schema=pa.schema([*self._table.row_schema, SHARD])),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=transform_cpus,
        )
        unpublished = set(self.rows)
        # A pipeline with nothing left to do would still start its workers.
        if any(self._there[shard] < count for shard, count in self.rows.items()):
            write = functools.partial(write_each, folders=folders, fs=run.fs, key=key)
            with closing(blocks.written(rows, write, rows_per_block, transform_cpus)) as written:
                for block in tally.counted(written):
                    shard = block["shard"]
                    self._there[shard] += block["rows"]
                    failed[shard] += block["failed"]
                    whole = block["rows"] and self._there[shard] == self.rows[shard]
                    if whole and failed[shard] <= max_error_rate * self.rows[shard]:
                        files = blocks.compact(folders[shard], run.fs, key, transform_cpus)
                        # If an engine was lost, a row may have come twice, and another one is still missing.
                        if _count(files, folders[shard], run.fs) == self.rows[shard]:
                            self._publish(shard, files)
                            unpublished.remove(shard)
        tally.check()
        for shard in sorted(unpublished):
            self._publish(shard, blocks.compact(folders[shard], run.fs, key, transform_cpus))

    def _publish(self, shard: str, files: list[str]) -> None:
        run, table = self._run, self.table(shard)
        run.publish(table, files, expected=self.rows[shard])
        blocks.tidy(run.path(table), run.fs, files)


def _count(files: list[str], folder: str, fs: pafs.FileSystem) -> int:
    count: int = pads.dataset([f"{folder}/{name}" for name in files], filesystem=fs, format="parquet").count_rows()
    return count


def write_each(block: pa.Table, folders: Mapping[str, str], fs: pafs.FileSystem, key: blocks.Key) -> pa.Table:
    """Writes the rows of a block to the folders of their shards. Returns a table with one row (WRITTEN) per shard."""
    found: list[dict[str, Any]] = []
    for shard in pc.unique(block[SHARD.name]).to_pylist():
        rows = block.filter(pc.equal(block[SHARD.name], shard)).drop_columns([SHARD.name])
        (summary,) = blocks.write_block(rows, folders[shard], fs, key).to_pylist()
        found.append({**summary, "shard": shard})
    return pa.Table.from_pylist(found, WRITTEN)


def without_each(block: pa.Table, keys: Mapping[str, list[ray.ObjectRef]], key: blocks.Key) -> pa.Table:
    """Returns the rows of a block whose key is not in the `keys` of their shard."""
    for shard in pc.unique(block[SHARD.name]).to_pylist():
        if shard in keys:
            there = among(blocks.keys_of(block, key), ray.get(keys[shard][0]))
            block = block.filter(pc.invert(pc.and_(there, pc.equal(block[SHARD.name], shard))))
    return block
