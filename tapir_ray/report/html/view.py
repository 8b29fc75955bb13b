"""A run as the sections of the report see it: what several of them read is read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.config import Config
from tapir_ray.cost.estimate import Estimate
from tapir_ray.curriculum.stats import ScoreStats, table_stats
from tapir_ray.data.schemas import HOLDOUT
from tapir_ray.evaluate.control_gain import CONTROLS
from tapir_ray.report.status import status
from tapir_ray.report.stored import stored_run
from tapir_ray.run.layout import Layout, LoopLayout, Table
from tapir_ray.run.run import Run
from tapir_ray.steps import early_stop
from tapir_ray.steps.score import COUNTED

MOST_RESAMPLES_TASKS = 2_000
"""Bootstrap samples of an interval of one task: a tenth of a second for 1,000 rows."""


@dataclass(frozen=True)
class Methods:
    """What the report asks of the methods, which it must not import."""

    layout_of: Callable[[Config], Layout]
    forecast: Callable[[Config, Run], Estimate]
    """Returns the forecast of a run. Raises InputError with the reason if there can be none."""


class View:
    """A run that is only read."""

    def __init__(self, uri: str, methods: Methods) -> None:
        """Raises InputError if there is no run at `uri`."""
        self.run = stored_run(uri)
        self.config = self.run.stored_config()
        self.methods = methods
        self.layout = methods.layout_of(self.config)

    @cached_property
    def status(self) -> dict[str, Any]:
        """The run's status (`report.status.status`)."""
        return status(self.run.uri, self.methods.layout_of)

    @property
    def under_way(self) -> bool:
        return bool(self.status["status"] == "running")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Content of `summary.json`; empty if the run has not written it."""
        return self.run.find_json("summary.json") or {}

    @cached_property
    def loop(self) -> LoopLayout | None:
        """The layout of a run that trains, with its rounds so far if it has ended early; None for a regeneration."""
        if not isinstance(self.layout, LoopLayout):
            return None
        ended = early_stop.ended(self.run)
        early = ended is not None and self.run.done(self.layout.checkpoint(ended["round"]))
        return self.layout.ended_after(ended["round"]) if ended is not None and early else self.layout

    @cached_property
    def scored_rounds(self) -> list[int]:
        """Rounds whose student was scored on the holdout; 0 is the student before the first round."""
        if self.loop is None:
            return []
        return [n for n in range(len(self.loop.rounds) + 1) if self.run.done(self.loop.judged_holdout(n))]

    @cached_property
    def rounds(self) -> list[int]:
        """Numbers of the rounds with a finished table of scores or a plan."""
        if self.loop is None:
            return []
        return [n for n, one in enumerate(self.loop.rounds, 1) if self.run.done(one.scored) or self.plan(n)]

    @cached_property
    def control(self) -> str:
        """The control in words, such as `plain SFT`; empty without one."""
        return CONTROLS.get(self.config.control, "") if self.loop is not None and self.loop.controls else ""

    @cached_property
    def _plans(self) -> dict[int, dict[str, Any]]:
        assert self.loop is not None
        return {n: self.run.find_json(one.plan) or {} for n, one in enumerate(self.loop.rounds, 1)}

    def plan(self, number: int) -> dict[str, Any]:
        """Returns a round's plan; empty before it is made, and for a round with the user's own training set."""
        return dict(self._plans[number].get("plan", {}))

    def mix(self, number: int) -> dict[str, Any]:
        """Returns a round's mix; empty before it is made."""
        return dict(self._plans[number].get("mix", {}))

    def annotations(self, number: int) -> dict[str, Any]:
        """Returns the numbers of a round's annotations; empty before they are made, and by another method."""
        return dict(self._plans[number].get("elad") or {})

    @cached_property
    def _stats(self) -> dict[tuple[str, bool], ScoreStats | None]:
        return {}

    def stats(self, number: int, holdout: bool) -> ScoreStats | None:
        """Returns the statistics of a round's scores, of the candidates or with the holdout; None before they exist."""
        assert self.loop is not None
        table = self.loop.any_round(number).scored
        return self.stats_of(table, holdout)

    def stats_of(self, table: Table, holdout: bool) -> ScoreStats | None:
        """Returns the statistics of a table of scores (`curriculum.stats`); None if it is not finished."""
        key = (table.path, holdout)
        if key not in self._stats:
            total = None
            if self.run.done(table) is not None:
                total = ScoreStats()
                for batch in self.scan(table, COUNTED):
                    rows = batch if holdout else batch.filter(pc.not_equal(batch["split"], HOLDOUT))
                    if len(rows):
                        total = total.merged(table_stats(rows, self.config.judge.min_teacher_score))
            self._stats[key] = total
        return self._stats[key]

    def scan(self, table: Table, columns: list[str]) -> Iterator[pa.Table]:
        """Yields the columns of a finished table that it has, batch by batch; nothing for one that is not finished."""
        if self.run.done(table) is None:
            return
        known = [name for name in columns if table.schema is None or name in table.row_schema.names]
        for batch in self.run.scan(table, known):
            yield pa.Table.from_batches([batch])
