"""Tables of many shards that one pipeline writes: each is published as soon as its rows are there.

    tables = ShardedTables(run, layout.labelled, {"shards/00000": 1_000_000, "shards/00001": 1_000_000})
    rows = tables.remaining(rows, transform_cpus)                  # rows have the column `shard`
    tables.write(rows, rows_per_block=64, …)                    # shards/00000/labelled, shards/00001/labelled

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
from tapir_ray.run.layout import Table
from tapir_ray.run.resume import among, resume_tables
from tapir_ray.run.row_counter import RowCounter
from tapir_ray.run.tables import Tables

if TYPE_CHECKING:
    import ray.data

SHARD = pa.field("shard", pa.string())
"""Column that says which shard a row belongs to."""
WRITTEN = pa.schema([*blocks.WRITTEN, SHARD])


class ShardedTables:
    """The tables `table.of(SHARD)` that are not finished; `rows` are the rows of every shard.

    Of them `carried` come as failed rows of the table before, and do not count against the error rate of this one.
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
        """What they are called together, in messages."""
        first, last = min(self.rows), max(self.rows)
        return self.table(first) if first == last else f"{first} to {self.table(last)}"

    def table(self, shard: str) -> str:
        return self._table.of(shard).path

    def remaining(self, rows: ray.data.Dataset, transform_cpus: float) -> ray.data.Dataset:
        """The rows that no earlier attempt has written; lazy. Failed rows are among them."""
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
        """Run the pipeline behind `rows` (with the column `shard`) and publish the tables as they become whole.

        Its rows are counted for the progress line of the tables' name, which may go on over several such pipelines.
        Blocks of at least `rows_per_block` rows are there for good as soon as they are written. `max_error_rate` is of
        all rows together: a shard of which more failed is published once all are made, so that after an error its
        failed rows are asked again. Raises StageError and Stopped as `Tables.write`; what is published by then stays.
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
                        # A row may have come twice, since an engine was lost after it: then others are still to come.
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
    """Write a block's rows into the folders of their shards; returns a WRITTEN row for each shard."""
    found: list[dict[str, Any]] = []
    for shard in pc.unique(block[SHARD.name]).to_pylist():
        rows = block.filter(pc.equal(block[SHARD.name], shard)).drop_columns([SHARD.name])
        (summary,) = blocks.write_block(rows, folders[shard], fs, key).to_pylist()
        found.append({**summary, "shard": shard})
    return pa.Table.from_pylist(found, WRITTEN)


def without_each(block: pa.Table, keys: Mapping[str, list[ray.ObjectRef]], key: blocks.Key) -> pa.Table:
    """The block's rows whose key is not among those of their shard."""
    for shard in pc.unique(block[SHARD.name]).to_pylist():
        if shard in keys:
            there = among(blocks.keys_of(block, key), ray.get(keys[shard][0]))
            block = block.filter(pc.invert(pc.and_(there, pc.equal(block[SHARD.name], shard))))
    return block
