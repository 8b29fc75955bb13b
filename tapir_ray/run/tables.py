"""Tables of a run on storage: any local, s3 or gs path through pyarrow.fs.

    if not run.done(table):
        run.write(table, dataset, SCORED)
    rows = run.read(table)

A table, named by a `Table` of the layout or by its path, is a folder of Parquet files and a manifest that is written
last. A table without a manifest is not finished: its rows are resumed (`remaining`), or deleted and made again.
"""

from __future__ import annotations

import functools
import posixpath
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
"""Folder in an unfinished table for the rows that a stage inside its pipeline has finished."""
FEW_BLOCKS, FEWER_ROWS, ROWS_PER_BLOCK = 8, 2_000, 5_000
"""A table is read in blocks of ROWS_PER_BLOCK, because each block costs a task in every stage. A smaller table is read
in up to FEW_BLOCKS blocks of FEWER_ROWS, so that it is processed in parallel too."""
LARGE_ROWS = 200_000
"""Rows from which Ray chooses the number of blocks itself."""


class Tables(Storage):
    """Storage of a run with its tables."""

    def __init__(self, fs: pafs.FileSystem, root: str, uri: str) -> None:
        super().__init__(fs, root, uri)
        self.attempt = 0
        """Number from `attempts.owned`; 0 for a run that is only read."""
        self.progress: Progress | None = None
        self._kept: dict[str, tuple[int, ray.ObjectRef]] = {}
        """By unfinished table: the number of rows that `remaining` has found, and their keys."""

    def event(self, kind: str, **fields: Any) -> None:
        """Appends an event with the time and the attempt. Raises StageError if another attempt owns the run."""
        check_owner(self, self.attempt)
        self.append("events.jsonl", [{"time": now(), "attempt": self.attempt, "event": kind, **fields}])

    def done(self, table: Table | str) -> Manifest | None:
        """Returns the manifest of a finished table; None for any other."""
        name = f"{table}/{MANIFEST}"
        found = self.find_json(name)
        try:
            return Manifest(**found) if found is not None else None
        except TypeError:  # JSON with other fields than a manifest
            self.tell_torn(name)
            return None

    def manifest(self, table: Table | str) -> Manifest:
        """Returns the manifest of a finished table. Raises StageError if it is not finished."""
        manifest = self.done(table)
        if manifest is None:
            raise StageError(f"{self.uri_of(str(table))} does not exist or is not finished")
        return manifest

    def files(self, table: Table | str) -> list[str]:
        """Returns the paths (inside `fs`) of a finished table's Parquet files."""
        return [self.path(f"{table}/{name}") for name in self.manifest(table).files]

    def read(
        self, *tables: Table | str, columns: list[str] | None = None, transform_cpus: float = 0.1
    ) -> ray.data.Dataset:
        """Returns the rows of finished tables, one after the other: a lazy dataset. Raises StageError without files."""
        import ray.data

        files = [path for table in tables for path in self.files(table)]
        if not files:
            raise StageError(f"{', '.join(map(str, tables))}: no rows")
        return ray.data.read_parquet(
            files,
            filesystem=self.fs,
            columns=columns,
            num_cpus=transform_cpus,
            # Ray's default takes folders such as `a=b` in the path of a run for columns.
            partitioning=None,
            override_num_blocks=_read_blocks(sum(self.manifest(table).rows for table in tables)),
        )

    def scan(self, table: Table | str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yields batches of a few columns to the driver: for counting, without holding a table in memory."""
        files = self.files(table)
        if files:
            yield from pads.dataset(files, filesystem=self.fs, format="parquet").to_batches(columns=columns)

    def clear(self, table: Table | str) -> None:
        """Deletes a table, finished or not. A crash on the way leaves nothing to resume (see `table_removal.py`)."""
        table_removal.remove(self.fs, self.path(str(table)))

    def clear_working(self, table: Table) -> None:
        """Deletes the working tables of a table (`Table.working`)."""
        folder = posixpath.dirname(table.path)
        for name in filter(table.is_working, self.children(folder)):
            self.clear(posixpath.join(folder, name))

    def remaining(
        self, table: Table | str, rows: ray.data.Dataset, key: blocks.Key, transform_cpus: float = 0.1
    ) -> ray.data.Dataset:
        """Returns `rows` without those that earlier attempts have written to the unfinished `table`: a lazy dataset.

        `key` names columns whose values together are unique. Failed rows are among the remaining. Call `write` with the
        same key afterwards.
        """
        count, keys = self._kept[str(table)] = resume_table(self.path(str(table)), self.fs, key, transform_cpus)
        return without(rows, keys, key, transform_cpus) if count else rows

    def resumes(self, table: Table | str) -> bool:
        """Whether `remaining` was called for the table, and `write` not yet."""
        return str(table) in self._kept

    def kept(self, table: Table | str) -> int:
        """Returns the number of rows that `remaining` has found in an unfinished table."""
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
        """Returns `make(rows, keep)` for a later stage of the pipeline of `table`: a lazy dataset.

        The workers of `make` call `keep()` for an `AnswerLog`, which stores their finished rows at once in a folder of
        the table. `rows` are those of `expected` rows that `remaining` has left. Rows in the log of an earlier attempt
        are read instead of made; if it has all of them, `make` is not called. `forget_answers` deletes the folder.
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
        """Returns the rows in the log of a table that are not in the table yet."""
        done, keys = self._kept[table.path]
        rows = blocks.found(self.path(name), self.fs, transform_cpus)
        return without(rows, keys, table.key, transform_cpus) if done else rows

    def forget_answers(self, table: Table | str) -> None:
        """Deletes the log of `answers` for a finished table."""
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
        """Runs the pipeline behind `rows`, writes and publishes the table, with `extra` in its manifest.

        With a `key`, the rows that `remaining` has found are kept, and blocks of at least `rows_per_block` rows survive
        a crash as soon as they are written. Without a key the table is written from the start.

        Raises StageError as `publish` does, and during the pipeline if too many rows fail. Raises Stopped if rows were
        not asked because the budget is used up (see `row_counter.py`, also for `drained`).
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
        # A pipeline with nothing left to do would still start its engines.
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
        # After the manifest: until then the blocks are the only record of finished rows.
        blocks.tidy(self.path(table), self.fs, files)
        return manifest

    def write_rows(self, table: Table | str, rows: pa.Table) -> Manifest:
        """Writes and publishes a small table that is in memory."""
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
        """Counts the rows in a table's files (by default all in its folder) and writes its manifest.

        Raises StageError, without publishing, if another attempt owns the run, if the number of rows is not `expected`,
        or if more than `max_error_rate` of them have failed.
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
        # As late as possible: counting takes time, in which a suspended attempt can be overtaken.
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
    """Yields (status, an example of the reasons, number of rows) for each status and kind of reason in a batch."""
    # Cast, because a column of nulls only may have no type.
    rows = pa.table({"status": batch["status"], "reason": batch["reason"].cast(pa.string())})
    # The text after the colon differs from row to row, so it is no part of the group; one of them is shown.
    kind = pc.extract_regex(rows["reason"], r"(?s)^(?P<kind>[^:]*:?)").combine_chunks().field("kind")
    # Without threads: pyarrow refuses `first` with them.
    grouped = rows.append_column("kind", kind).group_by(["status", "kind"], use_threads=False)
    found = grouped.aggregate([("reason", "first"), ([], "count_all")])
    return zip(*(found[name].to_pylist() for name in ("status", "reason_first", "count_all")), strict=True)


def _read_blocks(rows: int) -> int | None:
    """Returns the number of read tasks for a table; None leaves it to Ray.

    A small table gets few, because every task that runs at the same time is a process.

    _read_blocks(1_000), _read_blocks(12_000), _read_blocks(100_000)  # 1, 6, 20
    """
    few = min(FEW_BLOCKS, rows // FEWER_ROWS)
    return max(1, few, rows // ROWS_PER_BLOCK) if rows < LARGE_ROWS else None
