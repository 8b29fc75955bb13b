"""Runs a user's tracker in a background thread, so that its errors and waits do not affect the run.

trackers = users_trackers(config)            # of the key `trackers`
"""

from __future__ import annotations

import importlib.util
import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from tapir_ray.config import Config
from tapir_ray.config.registry import TRACKERS, resolve
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.errors.redaction import redacted
from tapir_ray.run.trackers.base import Numbers, RunInfo, Tracker
from tapir_ray.run.trackers.curves import Curves

MOST_WAITING = 10_000
"""Calls that wait for a slow tracker before further ones are dropped; a training of 10,000 steps makes as many."""
END_S = 10.0
"""Seconds that the end of a run waits for a slow tracker, unless its class has another `end_s`."""


def users_trackers(config: Config) -> list[Background]:
    """Returns the trackers of the config key `trackers`, not started. Raises InputError for any other class."""
    return [Background(spec, _tracker_class(spec)) for spec in dict.fromkeys(config.trackers)]


class Background(Tracker):
    """Tracker that calls another one in order, in a thread that ends with `end`. Only its first error is logged."""

    def __init__(self, name: str, make: type[Tracker]) -> None:
        """Calls `make` in the thread too, because it may open a connection."""
        self._name, self._make = name, make
        self._calls: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue(MOST_WAITING)
        self._told = False
        # A daemon: a tracker that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"tapir-tracker-{name}")

    def start(self, run: RunInfo) -> None:
        self._thread.start()
        self._hand_over("start", run)

    def log(self, kind: str, numbers: Numbers, round_number: int | None = None, step: int | None = None) -> None:
        self._hand_over("log", kind, without_secrets(numbers), round_number, step)

    def log_steps(self, kind: str, steps: Sequence[Numbers], round_number: int) -> None:
        self._hand_over("log_steps", kind, without_secrets(steps), round_number)

    def progress(self, stages: Sequence[Numbers], usage: Mapping[str, Mapping[str, Numbers]]) -> None:
        # Dropped while the tracker is busy: the next call has newer numbers.
        if self._calls.empty():
            self._hand_over("progress", without_secrets(stages), usage)

    def end(self, status: str) -> None:
        self._hand_over("end", status)
        self._hand_over_last()
        patience_s = self._make.end_s or END_S
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self._tell(f"it is still busy {patience_s:.0f} s after the end of the run; its remaining calls are lost")

    def _hand_over(self, method: str, *arguments: Any) -> None:
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self._tell(f"it is {MOST_WAITING:,} calls behind, and new calls are dropped")

    def _hand_over_last(self) -> None:
        try:
            self._calls.put(None, timeout=END_S)
        except queue.Full:
            self._tell(f"it is {MOST_WAITING:,} calls behind at the end of the run; its remaining calls are lost")

    def _work(self) -> None:
        tracker: Tracker | None = None
        while (call := self._calls.get()) is not None:  # None is the last one, from `_hand_over_last`
            method, arguments = call
            try:
                tracker = self._make() if tracker is None else tracker
                getattr(tracker, method)(*arguments)
            except Exception as error:
                self._tell(f"{method}: {type(error).__name__}: {redacted(one_line(error))[:300]}")

    def _tell(self, problem: str) -> None:
        if not self._told:
            self._told = True
            logging.getLogger(__name__).warning("trackers %s: %s; the run continues", self._name, problem)


def without_secrets(value: Any) -> Any:
    """Returns JSON values with stars in place of keys and passwords in every text."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: without_secrets(inner) for key, inner in value.items()}
    return [without_secrets(inner) for inner in value] if isinstance(value, list | tuple) else value


def _tracker_class(spec: str) -> type[Tracker]:
    found = resolve(spec, TRACKERS, what="trackers")
    if not (isinstance(found, type) and issubclass(found, Tracker)):
        raise InputError(f"trackers: {spec!r} is not a subclass of tapir_ray.run.trackers.Tracker; make it one")
    if issubclass(found, Curves) and found.package and importlib.util.find_spec(found.package) is None:
        raise InputError(
            f"trackers: {spec} needs the package {found.package}, which is not installed: "
            f"pip install 'tapir-ray[{found.name}]'"
        )
    return found
