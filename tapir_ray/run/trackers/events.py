"""The run's own record: a line of `events.jsonl` for what is done, of `metrics.jsonl` for a step of a training."""

from __future__ import annotations

from collections.abc import Sequence

from tapir_ray.run.tables import Tables
from tapir_ray.run.trackers.base import Numbers, Tracker


class Events(Tracker):
    """Writes into the folder of the run. An error ends the run, which reads these events when it is continued."""

    def __init__(self, run: Tables) -> None:
        self._run = run

    def log(self, kind: str, numbers: Numbers, round_number: int | None = None, step: int | None = None) -> None:
        self._run.event(kind, round=round_number, **numbers)

    def log_steps(self, kind: str, steps: Sequence[Numbers], round_number: int) -> None:
        # At once: each append writes the file again.
        lines = [{"round": round_number, "step": step, **numbers} for step, numbers in enumerate(steps)]
        self._run.append("metrics.jsonl", lines)
