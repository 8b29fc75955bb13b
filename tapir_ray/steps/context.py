"""Context of a run's steps: storage, config, layout, roles, taxonomy, curriculum, progress and trackers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray.data

from tapir_ray.config import Config
from tapir_ray.curriculum.actor import Handle
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.llm.roles import Roles
from tapir_ray.run.layout import EladLayout, Layout, LoopLayout, ShardLayout, Table
from tapir_ray.run.manifest import Manifest
from tapir_ray.run.progress import Progress
from tapir_ray.run.run import Run
from tapir_ray.run.trackers import Trackers


@dataclass
class Context:
    """Context that the command opens once and passes to every step."""

    run: Run
    config: Config
    layout: Layout
    roles: Roles
    taxonomy: Taxonomy
    curriculum: Handle
    progress: Progress
    trackers: Trackers
    after_round: Callable[[], object] = lambda: None
    """Called at the end of each round, to write the report so far."""

    @property
    def transform_cpus(self) -> float:
        return self.config.resources.transform_cpus

    @property
    def loop(self) -> LoopLayout:
        """Layout of a method that trains in rounds."""
        assert isinstance(self.layout, LoopLayout)
        return self.layout

    @property
    def elad(self) -> EladLayout:
        """Layout of the method ELAD."""
        assert isinstance(self.layout, EladLayout)
        return self.layout

    @property
    def shards(self) -> ShardLayout:
        """Layout of a method that writes a dataset shard by shard."""
        assert isinstance(self.layout, ShardLayout)
        return self.layout

    def write(
        self,
        table: Table,
        rows: ray.data.Dataset,
        label: str,
        expected: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Manifest:
        """Runs a pipeline into a table with live progress; returns the manifest, with `extra` in it.

        After `remaining`, the rows of earlier attempts stay, and a stop loses at most `resources.rows_per_block` rows.
        Without it the table is written from the start. Raises StageError and Stopped as `Run.write` does, and does not
        publish the table then.
        """
        # Only resumed tables need small blocks: a block is the unit that a stop keeps.
        key = table.key if self.run.resumes(table) else ()
        with self.progress.stage(label, table.path, expected):
            written = self.run.write(
                table,
                rows,
                table.row_schema,
                key=key,
                rows_per_block=self.config.resources.rows_per_block if key else None,
                transform_cpus=self.transform_cpus,
                expected=expected,
                max_error_rate=self.config.max_error_rate,
                extra=extra,
                drained=self.roles.drained,
            )
        for role in self.roles.found_plain():
            self.run.event(PLAIN_TEXT, role=role)
            self.progress.say(f"{role}: its endpoint refuses response_format; from now on requests are plain text")
        return written

    def remaining(self, table: Table, rows: ray.data.Dataset) -> ray.data.Dataset:
        """Returns the rows that no earlier attempt has written to `table`. Call `write` on the result."""
        return self.run.remaining(table, rows, table.key, self.transform_cpus)

    def read(self, *tables: Table, columns: list[str] | None = None) -> ray.data.Dataset:
        return self.run.read(*tables, columns=columns, transform_cpus=self.transform_cpus)

    def map(self, rows: ray.data.Dataset, function: Any, **arguments: Any) -> ray.data.Dataset:
        """Maps a function of Arrow tables over the blocks; lazy."""
        return rows.map_batches(
            function, fn_kwargs=arguments, batch_format="pyarrow", batch_size=None, num_cpus=self.transform_cpus
        )

    @contextmanager
    def stage(self, name: str, round_number: int) -> Iterator[None]:
        """Times a stage of a round. The seconds go to all trackers, and from the run's events to `summary.json`."""
        started = time.monotonic()
        with self.progress.span(name, round_number):
            yield
        seconds = round(time.monotonic() - started, 2)
        self.trackers.log("stage", {"stage": name, "seconds": seconds}, round_number)

    def note_round(self, kind: str, round_number: int, **numbers: Any) -> None:
        """Logs numbers of a round to all trackers; `kind` is one of ROUND_EVENTS."""
        self.trackers.log(kind, numbers, round_number)


ROUND_EVENTS = PLANNED, MIXED, ON_HOLDOUT, OVER_CONTROL = ("plan", "mix", "holdout", "control_gain")
"""Events with numbers of a round. The last event of a kind and round is the valid one."""


PLAIN_TEXT = "plain_text"
"""Event of a role whose endpoint refuses `response_format`."""
