"""A run on storage: its tables, their manifests, its events and metrics; any local, s3 or gs path through pyarrow.fs.

    run = Run.open(config, "runs/demo")
    if not run.done("rounds/01/scored"):
        run.write("rounds/01/scored", dataset, SCORED)
    rows = run.read("rounds/01/scored")

A table is a folder of Parquet files and a manifest that is written last: a table without a manifest does not exist,
and what lies in its folder is removed before it is written again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import yaml

from tapir_ray import parts
from tapir_ray.config import Config
from tapir_ray.config.differences import differences, in_words
from tapir_ray.errors import InputError, StageError, Stopped
from tapir_ray.manifest import Manifest
from tapir_ray.ownership import check_owner, refuse_beside_another
from tapir_ray.records import FAILED, FILTERED, conform
from tapir_ray.storage import Storage, now

if TYPE_CHECKING:
    import ray.data

    from tapir_ray.progress import Progress

MANIFEST = "_manifest.json"
ROWS_PER_BLOCK = 2_000
LEAST_ERRORS = 10
"""Failed rows that end a stage before its end, at least: of a few rows the first error says little."""
LARGE_ROWS = 200_000
BEGUN = {"adopted", "classifier", "checkpoints", "rounds", "seed", "seed_data.jsonl", "state"}
DRAIN_S = 10.0
"""How long a table gets no row that was asked, after the budget ended, before its pipeline is stopped."""


class Run(Storage):
    """The folder of one run. Paths inside are given as `rounds/01/scored`."""

    def __init__(self, fs: pafs.FileSystem, root: str, uri: str) -> None:
        super().__init__(fs, root, uri)
        self.attempt = 0
        """Given by `ownership.owned`; 0 is a run that is only read."""
        self.run_id = ""
        self.progress: Progress | None = None
        self._kept: dict[str, int] = {}
        """Rows of unfinished tables that `remaining` found."""

    @classmethod
    def open(cls, config: Config, uri: str) -> Run:
        """Create the run, or continue the one that is there: decided by its stored config.

        A run that has no finished table yet, such as one that was refused for its input, takes the new config. Raises
        InputError if the folder belongs to a config that gives other results, naming the keys that differ.
        """
        run = cls.at(uri)
        run.refuse_another(config)
        stored = run.stored_config() if run.exists("config.yaml") else None
        if stored is not None and stored != config:
            refuse_beside_another(run)
            if stored.digest() != config.digest():
                run._clear_begun()
        if stored is None or (stored != config and run._was_started()):
            try:
                run.write_text("config.yaml", config.dump())
            except OSError as error:
                raise InputError(f"{run.uri} cannot be written to: {' '.join(str(error).split())}") from error
        # Two runs of one config in two folders may share a cluster, where this names their actors.
        place = hashlib.blake2b(run.uri.encode(), digest_size=4).hexdigest()
        run.run_id = f"{config.name}-{config.digest()}-{place}"
        return run

    def _clear_begun(self) -> None:
        """Remove the tables that a run without a finished one has begun; what it used and was answered stays."""
        for name in set(self.children("")) & BEGUN:
            if self.fs.get_file_info(self.path(name)).type == pafs.FileType.Directory:
                self.fs.delete_dir(self.path(name))
            else:
                self.fs.delete_file(self.path(name))

    def refuse_another(self, config: Config) -> None:
        """Raises InputError if the folder has other content than a run that `config` may create or continue."""
        others = [entry for entry in self.children("") if not entry.startswith(".") and entry != "config.yaml"]
        if not self.exists("config.yaml"):
            if others:
                raise InputError(f"{self.uri} is not empty and holds no run (no config.yaml); use another --run-dir")
            return
        stored = self.stored_config()
        if not self._was_started() and (others or stored.digest() != config.digest()):
            raise InputError(f"{self.uri} is not empty and holds no run that was started; use another --run-dir")
        if stored.digest() != config.digest() and self._has_table():
            raise InputError(
                f"{self.uri} holds a run of another config ({in_words(differences(stored, config))}); "
                "set these keys back to continue it, or branch off with another --run-dir and "
                f"--fork {self.uri}, which keeps what is still valid"
            )

    def stored_config(self) -> Config:
        """The config that the run was started with. Raises InputError for a file that is none."""
        try:
            return Config.model_validate(yaml.safe_load(self.read_text("config.yaml")))
        except (ValueError, yaml.YAMLError) as error:
            raise InputError(
                f"{self.uri_of('config.yaml')} is not the config of a run; use another --run-dir"
            ) from error

    def _was_started(self) -> bool:
        """Whether the folder was made by a run, and its config.yaml is not a user's own."""
        return self.exists("attempts") or self.exists("events.jsonl")

    def _has_table(self) -> bool:
        found = self.fs.get_file_info(pafs.FileSelector(self.root, recursive=True))
        return any(info.base_name == MANIFEST for info in found)

    def event(self, kind: str, **fields: Any) -> None:
        """Add one event with the time and the attempt."""
        self.append("events.jsonl", [{"time": now(), "attempt": self.attempt, "event": kind, **fields}])

    # Tables

    def done(self, table: str) -> Manifest | None:
        """The manifest of a finished table, or None."""
        name = f"{table}/{MANIFEST}"
        return Manifest(**self.read_json(name)) if self.exists(name) else None

    def manifest(self, table: str) -> Manifest:
        """Raises StageError if the table is not finished."""
        manifest = self.done(table)
        if manifest is None:
            raise StageError(f"{self.uri_of(table)} is not there or not finished")
        return manifest

    def files(self, table: str) -> list[str]:
        """Paths (inside `fs`) of a finished table's Parquet files."""
        return [self.path(f"{table}/{name}") for name in self.manifest(table).files]

    def read(self, *tables: str, columns: list[str] | None = None, stage_cpus: float = 0.1) -> ray.data.Dataset:
        """The rows of finished tables, one after the other."""
        import ray.data

        files = [path for table in tables for path in self.files(table)]
        if not files:
            raise StageError(f"{', '.join(tables)}: no rows")
        return ray.data.read_parquet(
            files,
            filesystem=self.fs,
            columns=columns,
            num_cpus=stage_cpus,
            partitioning=None,
            override_num_blocks=_read_blocks(sum(self.manifest(table).rows for table in tables)),
        )

    def scan(self, table: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Batches of a few columns, streamed to the driver: to count, never to hold."""
        files = self.files(table)
        if files:
            yield from pads.dataset(files, filesystem=self.fs, format="parquet").to_batches(columns=columns)

    def clear(self, table: str) -> None:
        """Remove a table, finished or not."""
        self.fs.delete_dir_contents(self.path(table), missing_dir_ok=True)

    def remaining(
        self, table: str, rows: ray.data.Dataset, key: parts.Key, stage_cpus: float = 0.1
    ) -> ray.data.Dataset:
        """`rows` without those that an earlier attempt has written to the unfinished `table`; lazy.

        `key` names columns whose values together are unique. To be followed by `write` with the same key. Failed rows
        are among the remaining.
        """
        self._kept[table], keys = parts.reopen(self.path(table), self.fs, key)
        return parts.without(rows, keys, key, stage_cpus) if self._kept[table] else rows

    def write(
        self,
        table: str,
        rows: ray.data.Dataset,
        schema: pa.Schema,
        *,
        key: parts.Key = (),
        rows_per_part: int | None = None,
        stage_cpus: float = 0.1,
        expected: int | None = None,
        max_error_rate: float = 1.0,
        extra: dict[str, Any] | None = None,
        drained: Callable[[], bool] = lambda: True,
    ) -> Manifest:
        """Run the pipeline behind `rows` into a table and publish it, with `extra` in its manifest.

        With a `key` what `remaining` found stays, and blocks of at least `rows_per_part` rows are there for good as
        soon as they are written; without one the table is written anew. Raises StageError as `publish` does, already
        while the pipeline runs where too many rows fail; Stopped where rows were not asked because the budget ended,
        before a local student has answered all the rows that nobody will judge: once `drained` says that no request is
        on its way and for DRAIN_S no block had a row that was asked.
        """
        from ray.data.exceptions import ExecutionTimeoutError

        started = time.monotonic()
        kept = self._kept.pop(table, 0) if key else 0
        if not key:
            self.clear(table)
        self.fs.create_dir(self.path(table), recursive=True)
        if self.progress is not None:
            self.progress.count(table, kept, 0)
        unasked = failed = 0
        errors: Counter[str] = Counter()
        examples: dict[str, str] = {}
        asked_at = started
        rows = rows.map_batches(
            functools.partial(conform, schema=schema), batch_format="pyarrow", batch_size=None, num_cpus=stage_cpus
        )
        if expected is None or kept < expected:
            try:
                for block in parts.written(rows, self.path(table), self.fs, key, rows_per_part, stage_cpus * 0.9):
                    unasked += block["unasked"]
                    failed += block["failed"]
                    if block["failed"]:
                        kind = _kind(block["error"])
                        errors[kind] += block["failed"]
                        examples.setdefault(kind, block["error"])
                    if block["rows"]:
                        if asked_at == started:
                            # Where engines or workers have to start, mostly their start.
                            self.event("first_rows", table=table, seconds=round(time.monotonic() - started, 2))
                        asked_at = time.monotonic()
                    elif unasked and time.monotonic() - asked_at > DRAIN_S and drained():
                        break
                    if self.progress is not None:
                        self.progress.count(table, block["rows"], block["failed"])
                    if expected is not None and failed > max(LEAST_ERRORS, max_error_rate * expected):
                        (kind, _), *_ = errors.most_common(1)
                        raise StageError(_too_many(table, failed, expected, max_error_rate, examples[kind]))
            except ExecutionTimeoutError as error:
                raise StageError(f"{table}: nothing has happened for a long time; {_first_line(error)}") from error
        if unasked:
            raise Stopped("the budget is used up; raise budget.max_cost or budget.max_tokens and start again")
        seconds = time.monotonic() - started
        files = parts.compact(self.path(table), self.fs, key)
        manifest = self.publish(
            table, files, seconds=seconds, expected=expected, max_error_rate=max_error_rate, extra=extra
        )
        parts.tidy(self.path(table), self.fs, files)
        return manifest

    def write_rows(self, table: str, rows: pa.Table) -> Manifest:
        """Publish a small table that is already here."""
        import pyarrow.parquet as pq

        self.clear(table)
        self.fs.create_dir(self.path(table), recursive=True)
        pq.write_table(rows, self.path(f"{table}/rows-000000.parquet"), filesystem=self.fs)
        return self.publish(table)

    def publish(
        self,
        table: str,
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
                for status, reason in zip(batch["status"].to_pylist(), batch["reason"].to_pylist(), strict=True):
                    statuses[status] += 1
                    if status in reasons:
                        kind = _kind(reason)
                        reasons[status][kind] += 1
                        if status == FAILED:
                            examples.setdefault(kind, reason)
        if statuses[FAILED] > max_error_rate * rows:
            (kind, _), *_ = reasons[FAILED].most_common(1)
            raise StageError(_too_many(table, statuses[FAILED], rows, max_error_rate, examples[kind]))
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

    @contextmanager
    def timed(self, stage: str, round_number: int) -> Iterator[None]:
        """Record the seconds a stage took, under `seconds` of its round, also across restarts."""
        started = time.monotonic()
        yield
        self.event("stage", stage=stage, round=round_number, seconds=round(time.monotonic() - started, 2))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """All events of a kind, oldest first, over all attempts."""
        if not self.exists("events.jsonl"):
            return []
        lines = (json.loads(line) for line in self.read_text("events.jsonl").splitlines())
        return [line for line in lines if line["event"] == kind]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _kind(reason: str | None) -> str:
    return (reason or "unknown").partition(":")[0]


def _too_many(table: str, failed: int, rows: int, rate: float, example: str) -> str:
    return (
        f"{table}: {failed} of {rows} rows failed, more than max_error_rate {rate:g}, such as with: {example}. "
        "Mend the cause and start again (failed rows are asked again), or raise max_error_rate"
    )


def _read_blocks(rows: int) -> int | None:
    """Read tasks for a table: few for a small one, as every task at once is a process; None leaves it to Ray."""
    return max(1, rows // ROWS_PER_BLOCK) if rows < LARGE_ROWS else None
