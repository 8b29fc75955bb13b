"""Trackers of a run, and the object that passes numbers on to all of them.

with tracked(run, config, kinds=ROUND_EVENTS) as trackers:
    trackers.log("plan", {"alpha": 0.3}, round_number=1)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tapir_ray.config import Config
from tapir_ray.errors import Reached, Stopped
from tapir_ray.run.attempts import why_ended
from tapir_ray.run.run import Run
from tapir_ray.run.trackers.background import users_trackers, without_secrets
from tapir_ray.run.trackers.base import Numbers, RunInfo, Tracker
from tapir_ray.run.trackers.events import Events
from tapir_ray.run.trackers.ray_metrics import RayMetrics
from tapir_ray.run.trackers.step_log import recorded

__all__ = ["COMPLETED", "FAILED", "PROGRESS_S", "STOPPED", "Events", "RunInfo", "Tracker", "Trackers", "tracked"]

PROGRESS_S = 2.0
"""Seconds between two calls of `progress`; below Ray's interval of reports, 10 s, after which it drops a metric."""
OF_THE_EVENT = ("time", "attempt", "event", "round")
"""Fields of an event that do not belong to its numbers."""
COMPLETED, STOPPED, FAILED = "completed", "stopped", "failed"


class Trackers(Tracker):
    """Several trackers as one: passes each call on to all of them, in order."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def start(self, run: RunInfo) -> None:
        for one in self._trackers:
            one.start(run)

    def log(self, kind: str, numbers: Numbers, round_number: int | None = None, step: int | None = None) -> None:
        for one in self._trackers:
            one.log(kind, numbers, round_number, step)

    def log_steps(self, kind: str, steps: Sequence[Numbers], round_number: int) -> None:
        for one in self._trackers:
            one.log_steps(kind, steps, round_number)

    def progress(self, stages: Sequence[Numbers], usage: Mapping[str, Mapping[str, Numbers]]) -> None:
        for one in self._trackers:
            one.progress(stages, usage)

    def end(self, status: str) -> None:
        for one in self._trackers:
            one.end(status)


@contextmanager
def tracked(run: Run, config: Config, kinds: Collection[str]) -> Iterator[Trackers]:
    """Context manager with the trackers of a run: its events, Ray's metrics, and those of the config key `trackers`.

    `kinds` are the kinds of events from earlier attempts that trackers get at the start. All trackers end on exit.
    Raises InputError for an unknown tracker.
    """
    trackers = Trackers(Events(run), RayMetrics(), *users_trackers(config))
    trackers.start(_info(run, config, kinds))
    try:
        yield trackers
    except BaseException as error:
        # `--until STAGE` ends by an error too, but it has done all that it was asked to.
        status, _ = why_ended(error)
        trackers.end({Reached.exit_status: COMPLETED, Stopped.exit_status: STOPPED}.get(status, FAILED))
        raise
    trackers.end(COMPLETED)


def _info(run: Run, config: Config, kinds: Collection[str]) -> RunInfo:
    earlier = [
        (event["event"], {key: value for key, value in event.items() if key not in OF_THE_EVENT}, event["round"])
        for event in run.all_events()
        if event["event"] in kinds
    ]
    steps = [
        (line["kind"], {name: value for name, value in line.items() if name not in ("kind", "round")}, line["round"])
        for line in recorded(run)
    ]
    content, uri = without_secrets(config.model_dump(mode="json")), without_secrets(run.uri)
    return RunInfo(run.run_id, config.name, uri, run.attempt, content, without_secrets(earlier), steps)
