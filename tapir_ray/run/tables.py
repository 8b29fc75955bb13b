"""The tables of a run on storage: any local, s3 or gs path through pyarrow.fs.

    if not run.done(table):
        run.write(table, dataset, SCORED)
    rows = run.read(table)

A table, given as a `Table` of the layout or by its path, is a folder of Parquet files and a manifest that is written
last: a table without a manifest does not exist, and what lies in its folder is removed before it is written again.
"""

from __future__ import annotations

import functools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs

from tapir_ray.data import atomic_files
from tapir_ray.data.schemas import FAILED, FILTERED, conform
from tapir_ray.data.storage import Storage, now
from tapir_ray.errors import StageError
from tapir_ray.run import blocks, table_removal
from tapir_ray.run.answer_log import AnswerLog
from tapir_ray.run.attempts import check_owner
from tapir_ray.run.layout import Table
from tapir_ray.run.manifest import MANIFEST, Manifest
from tapir_ray.run.resume import resume_table, without
from tapir_ray.run.row_counter import RowCounter, kind_of, too_many

if TYPE_CHECKING:
    import ray
    import ray.data

    from tapir_ray.run.progress import Progress

ANSWERS = "answers"
"""Folder of an unfinished table: what a stage inside its pipeline has made."""
FEW_BLOCKS, FEWER_ROWS, ROWS_PER_BLOCK = 8, 2_000, 5_000
"""A table is read in blocks of ROWS_PER_BLOCK, since each of them costs every stage a task; up to FEW_BLOCKS of
FEWER_ROWS, so that a small one is worked on in parallel too."""
LARGE_ROWS = 200_000


class Tables(Storage):
    """A run's tables."""

    def __init__(self, fs: pafs.FileSystem, root: str, uri: str) -> None:
        super().__init__(fs, root, uri)
        self.attempt = 0
        """Given by `ownership.owned`; 0 is a run that is only read."""
        self.progress: Progress | None = None
        self._kept: dict[str, tuple[int, ray.ObjectRef]] = {}
        """How many rows of unfinished tables `remaining` found, and their keys."""

    def event(self, kind: str, **fields: Any) -> None:
        """Add one event with the time and the attempt. Raises StageError if another attempt owns the run."""
        check_owner(self, self.attempt)
        self.append("events.jsonl", [{"time": now(), "attempt": self.attempt, "event": kind, **fields}])

    def done(self, table: Table | str) -> Manifest | None:
        """The manifest of a finished table, or None."""
        name = f"{table}/{MANIFEST}"
        found = self.find_json(name)
        try:
            return Manifest(**found) if found is not None else None
        except TypeError:
            self.tell_torn(name)
            return None

    def manifest(self, table: Table | str) -> Manifest:
        """Raises StageError if the table is not finished."""
        manifest = self.done(table)
        if manifest is None:
            raise StageError(f"{self.uri_of(str(table))} is not there or not finished")
        return manifest

    def files(self, table: Table | str) -> list[str]:
        """Paths (inside `fs`) of a finished table's Parquet files."""
        return [self.path(f"{table}/{name}") for name in self.manifest(table).files]

    def read(
        self, *tables: Table | str, columns: list[str] | None = None, transform_cpus: float = 0.1
    ) -> ray.data.Dataset:
        """The rows of finished tables, one after the other."""
        import ray.data

        files = [path for table in tables for path in self.files(table)]
        if not files:
            raise StageError(f"{', '.join(map(str, tables))}: no rows")
        return ray.data.read_parquet(
            files,
            filesystem=self.fs,
            columns=columns,
            num_cpus=transform_cpus,
            partitioning=None,
            override_num_blocks=_read_blocks(sum(self.manifest(table).rows for table in tables)),
        )

    def scan(self, table: Table | str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Batches of a few columns, streamed to the driver: to count, never to hold."""
        files = self.files(table)
        if files:
            yield from pads.dataset(files, filesystem=self.fs, format="parquet").to_batches(columns=columns)

    def clear(self, table: Table | str) -> None:
        """Remove a table, finished or not: its manifest first, and no half of it is gone on with (see `removal.py`)."""
        table_removal.remove(self.fs, self.path(str(table)))

    def remaining(
        self, table: Table | str, rows: ray.data.Dataset, key: blocks.Key, transform_cpus: float = 0.1
    ) -> ray.data.Dataset:
        """`rows` without those that an earlier attempt has written to the unfinished `table`; lazy.

        `key` names columns whose values together are unique. To be followed by `write` with the same key. Failed rows
        are among the remaining.
        """
        count, keys = self._kept[str(table)] = resume_table(self.path(str(table)), self.fs, key, transform_cpus)
        return without(rows, keys, key, transform_cpus) if count else rows

    def resumes(self, table: Table | str) -> bool:
        """Whether `remaining` was asked for the table, which is not written yet."""
        return str(table) in self._kept

    def kept(self, table: Table | str) -> int:
        """How many rows of an unfinished table `remaining` has found."""
        return self._kept[str(table)][0]

    def answers(
        self,
        table: Table,
        rows: ray.data.Dataset,
        make: Callable[[ray.data.Dataset, Callable[[], AnswerLog]], ray.data.Dataset],
        expected: int,
        rows_per_block: int,
        transform_cpus: float = 0.1,
    ) -> ray.data.Dataset:
        """`make(rows, keep)`, which a later stage of the same pipeline needs for `table`; lazy.

        Its workers call `keep()` for a `AnswerLog`, which writes what they finish beside the table as soon as it is
        there. `rows` are what `remaining` left of `expected` rows. What an earlier attempt has kept is read and not
        made again: `make` is not called where that is all of it. The folder goes with `table`: see `forget_answers`.
        """
        name = f"{table}/{ANSWERS}"
        self.fs.create_dir(self.path(name), recursive=True)
        key, wanted = table.key, self.remaining(name, rows, table.key, transform_cpus)
        before, _ = self._kept.pop(name)
        if before >= expected:
            return self._earlier(table, name, transform_cpus)
        log = functools.partial(AnswerLog, self.path(name), self.fs, table.row_schema, key, rows_per_block)
        made = make(wanted, log)
        return made.union(self._earlier(table, name, transform_cpus)) if before else made

    def _earlier(self, table: Table, name: str, transform_cpus: float) -> ray.data.Dataset:
        """What was kept for a table and is not in it."""
        done, keys = self._kept[table.path]
        rows = blocks.found(self.path(name), self.fs, transform_cpus)
        return without(rows, keys, table.key, transform_cpus) if done else rows

    def forget_answers(self, table: Table | str) -> None:
        """Remove what `answers` has kept for a table that is finished."""
        if self.exists(f"{table}/{ANSWERS}"):
            self.fs.delete_dir(self.path(f"{table}/{ANSWERS}"))

    def write(
        self,
        table: Table | str,
        rows: ray.data.Dataset,
        schema: pa.Schema,
        *,
        key: blocks.Key = (),
        rows_per_block: int | None = None,
        transform_cpus: float = 0.1,
        expected: int | None = None,
        max_error_rate: float = 1.0,
        extra: dict[str, Any] | None = None,
        drained: Callable[[], bool] = lambda: True,
    ) -> Manifest:
        """Run the pipeline behind `rows` into a table and publish it, with `extra` in its manifest.

        With a `key` what `remaining` found stays, and blocks of at least `rows_per_block` rows are there for good as
        soon as they are written; without one the table is written anew. Raises StageError as `publish` does, already
        while the pipeline runs where too many rows fail; Stopped where rows were not asked because the budget ended
        (see `row_counter.py`, also for `drained`).
        """
        started, table = time.monotonic(), str(table)
        kept = self._kept.pop(table)[0] if key and table in self._kept else 0
        if not key:
            self.clear(table)
        self.fs.create_dir(self.path(table), recursive=True)
        if self.progress is not None:
            self.progress.keep(table, kept)
        tally = RowCounter(self, table, expected, max_error_rate, drained)
        rows = rows.map_batches(
            functools.partial(conform, schema=schema), batch_format="pyarrow", batch_size=None, num_cpus=transform_cpus
        )
        if expected is None or kept < expected:
            write = functools.partial(blocks.write_block, folder=self.path(table), fs=self.fs, key=key)
            with closing(blocks.written(rows, write, rows_per_block, transform_cpus)) as written:
                deque(tally.counted(written), maxlen=0)
        tally.check()
        seconds = time.monotonic() - started
        files = blocks.compact(self.path(table), self.fs, key, transform_cpus)
        manifest = self.publish(
            table, files, seconds=seconds, expected=expected, max_error_rate=max_error_rate, extra=extra
        )
        blocks.tidy(self.path(table), self.fs, files)
        return manifest

    def write_rows(self, table: Table | str, rows: pa.Table) -> Manifest:
        """Publish a small table that is already here."""
        table = str(table)
        self.clear(table)
        self.fs.create_dir(self.path(table), recursive=True)
        atomic_files.write_parquet(self.fs, self.path(f"{table}/rows-000000.parquet"), rows)
        return self.publish(table)

    def publish(
        self,
        table: Table | str,
        files: list[str] | None = None,
        *,
        seconds: float = 0.0,
        expected: int | None = None,
        max_error_rate: float = 1.0,
        extra: dict[str, Any] | None = None,
    ) -> Manifest:
        """Count a table's files (all of its folder, if none are named) and write its manifest.

        Raises StageError, and publishes nothing, if a later attempt owns the run, other than `expected` rows are there,
        or more than `max_error_rate` of them failed.
        """
        table = str(table)
        files = [name for name in self.children(table) if name.endswith(".parquet")] if files is None else files
        dataset = pads.dataset([self.path(f"{table}/{name}") for name in files], filesystem=self.fs, format="parquet")
        rows = dataset.count_rows() if files else 0
        if expected is not None and rows != expected:
            raise StageError(f"{table}: {expected} rows went in and {rows} came out")
        statuses: Counter[str] = Counter()
        examples: dict[str, str] = {}
        reasons: dict[str, Counter[str]] = {FILTERED: Counter(), FAILED: Counter()}
        if files and "status" in dataset.schema.names:
            for batch in dataset.to_batches(columns=["status", "reason"]):
                for status, reason, count in counted(batch):
                    statuses[status] += count
                    if status in reasons:
                        kind = kind_of(reason)
                        reasons[status][kind] += count
                        if status == FAILED:
                            examples.setdefault(kind, reason or kind)
        if statuses[FAILED] > max_error_rate * rows:
            (kind, _), *_ = reasons[FAILED].most_common(1)
            raise StageError(too_many(table, statuses[FAILED], rows, max_error_rate, examples[kind]))
        check_owner(self, self.attempt)
        manifest = Manifest(
            table=table,
            rows=rows,
            files=files,
            statuses=dict(statuses),
            reasons=dict(reasons[FILTERED].most_common()),
            errors=dict(reasons[FAILED].most_common()),
            seconds=round(seconds, 3),
            extra=extra or {},
        )
        self.write_json(f"{table}/{MANIFEST}", manifest.__dict__)
        self.event("table", table=table, rows=rows, statuses=manifest.statuses, seconds=manifest.seconds)
        return manifest


def counted(batch: pa.RecordBatch) -> Iterator[tuple[str, str | None, int]]:
    """Rows of a batch by status and kind of reason: (status, one of the reasons, rows)."""
    rows = pa.table({"status": batch["status"], "reason": batch["reason"].cast(pa.string())})
    # What follows the colon differs from row to row; failed rows keep it, to show one.
    kind = pc.extract_regex(rows["reason"], r"(?s)^(?P<kind>[^:]*:?)").combine_chunks().field("kind")
    grouped = rows.append_column("kind", kind).group_by(["status", "kind"], use_threads=False)
    found = grouped.aggregate([("reason", "first"), ([], "count_all")])
    return zip(*(found[name].to_pylist() for name in ("status", "reason_first", "count_all")), strict=True)


def _read_blocks(rows: int) -> int | None:
    """Read tasks for a table: few for a small one, as every task at once is a process; None leaves it to Ray."""
    few = min(FEW_BLOCKS, rows // FEWER_ROWS)
    return max(1, few, rows // ROWS_PER_BLOCK) if rows < LARGE_ROWS else None
