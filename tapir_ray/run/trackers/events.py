"""Tracker that writes a run's own files: `events.jsonl`, and `metrics.jsonl` with a line for each training step."""

from __future__ import annotations

from collections.abc import Sequence

from tapir_ray.run.tables import Tables
from tapir_ray.run.trackers.base import Numbers, Tracker
from tapir_ray.run.trackers.step_log import METRICS


class Events(Tracker):
    """Tracker that writes to the folder of the run. An error ends the run, because a continued run needs the events."""

    def __init__(self, run: Tables) -> None:
        self._run = run

    def log(self, kind: str, numbers: Numbers, round_number: int | None = None, step: int | None = None) -> None:
        self._run.event(kind, round=round_number, **numbers)

    def log_steps(self, kind: str, steps: Sequence[Numbers], round_number: int) -> None:
        # In one call, because each append writes the whole file again.
        self._run.append(METRICS, [{"kind": kind, "round": round_number, **numbers} for numbers in steps])
