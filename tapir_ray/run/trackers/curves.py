"""Base of trackers that draw curves: a value by name and step, each step once over all starts of a run.

class Mine(Curves):
    def open(self, run): ...                  # returns the last step of each name that is already there
    def write(self, points): ...

The names and what counts their steps:

- `train/…`, `control/…`: the optimizer's steps over all trainings of the run
- `curriculum/…`, `mix/…`, `judge/…`, `holdout/…`, `gain/…`, `seconds/…`: the round
- `cost/…`: the requests sent so far
"""

from __future__ import annotations

import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from tapir_ray.run.trackers.base import OF_THE_STEP, Numbers, RunInfo, Tracker

COST_EVERY_S = 30.0
"""Seconds between two points of the cost."""
COST = "cost/dollars"
GROUPS = {"plan": "curriculum", "control_gain": "gain", "stage": "seconds"}
"""First part of the names of a kind; of any other kind, the kind itself."""
NAMES = {
    ("plan", "threshold"): "curriculum/delta",
    ("plan", "teacher_score"): "judge/teacher_score",
    ("plan", "student_score"): "judge/student_score",
    ("holdout", "holdout_score"): "holdout/score",
}
"""Names that differ from GROUP/NUMBER."""
SCORES = "student_scores"
"""Number of a plan with the student's mean score by task."""
OTHER = re.compile(r"[^\w\-. /]")
"""A character that not every tracker takes in a name, such as the `&` of a task."""


class Point(NamedTuple):
    """A value of a curve."""

    name: str
    value: float
    step: int


class Curves(Tracker, ABC):
    """Tracker that writes points."""

    package: ClassVar[str] = ""
    """Module that it needs; it is installed by the extra `name`."""
    name: ClassVar[str] = ""
    """Name in the config key `trackers`."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._attempt = 1
        self._costs_at = -math.inf
        self._usage: Mapping[str, Mapping[str, Numbers]] = {}

    @abstractmethod
    def open(self, run: RunInfo) -> Mapping[str, int]:
        """Opens the run's curves, new or of earlier attempts; returns the last step of each name in them."""

    @abstractmethod
    def write(self, points: Sequence[Point]) -> None:
        """Writes points; the steps of a name rise."""

    def close(self, status: str) -> None:
        """Closes the curves after the last point. `status` is as in `Tracker.end`."""

    def start(self, run: RunInfo) -> None:
        self._last, self._attempt = dict(self.open(run)), run.attempt
        # What an earlier attempt could not hand over, or had no such tracker for.
        earlier = [point for kind, numbers, number in run.earlier for point in points_of(kind, numbers, number)]
        steps = [point for kind, numbers, _ in run.earlier_steps for point in points_of_step(kind, numbers)]
        self._add([*earlier, *steps])

    def log(self, kind: str, numbers: Numbers, round_number: int | None = None, step: int | None = None) -> None:
        if round_number is not None:
            self._add(points_of(kind, numbers, round_number))

    def log_steps(self, kind: str, steps: Sequence[Numbers], round_number: int) -> None:
        self._add([point for numbers in steps for point in points_of_step(kind, numbers)])

    def progress(self, stages: Sequence[Numbers], usage: Mapping[str, Mapping[str, Numbers]]) -> None:
        self._usage = usage
        if self._attempt > 1:
            # Where an earlier attempt ended; nothing else tells it of every tracker.
            self._last.setdefault(COST, _requests(usage))
        if time.monotonic() - self._costs_at >= COST_EVERY_S:
            self._costs_at = time.monotonic()
            self._add(points_of_usage(usage))

    def end(self, status: str) -> None:
        self._add(points_of_usage(self._usage))
        self.close(status)

    def _add(self, points: Iterable[Point]) -> None:
        new = []
        for point in points:
            if point.step > self._last.get(point.name, -1) and math.isfinite(point.value):
                self._last[point.name] = point.step
                new.append(point)
        if new:
            self.write(new)


def points_of(kind: str, numbers: Numbers, round_number: int) -> Iterator[Point]:
    """Yields the points of an event of a round."""
    if kind == "stage":
        yield Point(_clean(f"seconds/{numbers['stage']}"), float(numbers["seconds"]), round_number)
        return
    for task, score in (numbers.get(SCORES) or {}).items():
        yield Point(_clean(f"judge/score/{task}"), float(score), round_number)
    for name, value in numbers.items():
        if is_number(value):
            full = NAMES.get((kind, name), f"{GROUPS.get(kind, kind)}/{name}")
            yield Point(_clean(full), float(value), round_number)


def points_of_step(kind: str, numbers: Numbers) -> Iterator[Point]:
    """Yields the points of a step of a training."""
    for name, value in numbers.items():
        if name not in OF_THE_STEP and is_number(value):
            yield Point(f"{kind}/{name}", float(value), numbers["run_step"])


def points_of_usage(usage: Mapping[str, Mapping[str, Numbers]]) -> Iterator[Point]:
    """Yields the cost so far in US dollars; nothing before the first request."""
    if requests := _requests(usage):
        dollars = sum(used["cost"] for kinds in usage.values() for used in kinds.values())
        yield Point(COST, float(dollars), requests)


def last_steps(run: RunInfo) -> dict[str, int]:
    """Returns the last step of each name by the run's own record, for a tracker that cannot be asked."""
    found: dict[str, int] = {}
    for kind, numbers, number in run.earlier:
        found |= {point.name: point.step for point in points_of(kind, numbers, number)}
    for kind, numbers, _ in run.earlier_steps:
        found |= {point.name: point.step for point in points_of_step(kind, numbers)}
    return found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _requests(usage: Mapping[str, Mapping[str, Numbers]]) -> int:
    return sum(int(used["requests"]) for kinds in usage.values() for used in kinds.values())


def _clean(name: str) -> str:
    return OTHER.sub("_", name)
