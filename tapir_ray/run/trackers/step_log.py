"""Log of the losses of a training while it runs: each step reaches the trackers once, whatever the number of starts.

    with step_log(run, trackers, "train", "round-01-5b…", 1) as log:
        log.add(message)                                  # of rank 0, about once a second
        log.complete(result.losses, result.holdout_losses)

`metrics.jsonl` in the run folder is the record: it says which steps earlier starts have logged. A training that is
continued from a checkpoint repeats the steps after it, with the same losses.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tapir_ray.data.storage import Storage
from tapir_ray.run.trackers.base import Tracker

METRICS = "metrics.jsonl"
FLUSH_S = 5.0
"""Seconds between two writes: each one writes the whole file again."""
LOSS, HOLDOUT_LOSS = "loss", "holdout_loss"


class StepLog:
    """Log of one training. `run_step` of a line counts the steps of all trainings of its kind, in order."""

    def __init__(self, storage: Storage, trackers: Tracker, kind: str, training: str, round_number: int) -> None:
        """Continues after the lines in METRICS. `training` differs between two trainings of a round."""
        self._trackers, self._kind, self._training, self._round = trackers, kind, training, round_number
        lines = [line for line in recorded(storage) if line["kind"] == kind]
        mine = [line for line in lines if line["training"] == training]
        self._next = {LOSS: 0, HOLDOUT_LOSS: 0}
        for line in mine:
            for name in self._next:
                if name in line:
                    self._next[name] = line["step"] + 1
        first = mine[0]["run_step"] - mine[0]["step"] if mine else None
        self._before = max((line["run_step"] + 1 for line in lines), default=0) if first is None else first
        self._waiting: list[dict[str, Any]] = []
        self._flushed = time.monotonic()

    def add(self, message: Mapping[str, Any]) -> None:
        """Takes a message of rank 0: `new_steps` (each with `step` and `loss`) and `holdout_losses` (all so far)."""
        for numbers in message["new_steps"]:
            self._take(LOSS, numbers["step"], numbers)
        self._take_held(message["holdout_losses"])
        if time.monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def complete(self, losses: Sequence[float], holdout_losses: Sequence[tuple[int, float]]) -> None:
        """Takes the losses of the whole training, for messages that were lost."""
        for step, loss in enumerate(losses):
            self._take(LOSS, step, {LOSS: loss})
        self._take_held(holdout_losses)
        self.flush()

    def flush(self) -> None:
        """Hands the waiting steps to the trackers."""
        self._flushed = time.monotonic()
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._trackers.log_steps(self._kind, waiting, self._round)

    def _take_held(self, losses: Sequence[Sequence[float]]) -> None:
        for step, loss in losses:
            self._take(HOLDOUT_LOSS, int(step), {HOLDOUT_LOSS: loss})

    def _take(self, name: str, step: int, numbers: Mapping[str, Any]) -> None:
        if step >= self._next[name]:
            self._next[name] = step + 1
            place = {"training": self._training, "step": step, "run_step": self._before + step}
            self._waiting.append({**place, **numbers})


@contextmanager
def step_log(storage: Storage, trackers: Tracker, kind: str, training: str, round_number: int) -> Iterator[StepLog]:
    """Context manager of a StepLog; what waits is written at the exit, also after an error."""
    log = StepLog(storage, trackers, kind, training, round_number)
    try:
        yield log
    finally:
        log.flush()


def recorded(storage: Storage) -> list[dict[str, Any]]:
    """Returns the lines of METRICS, oldest first. A torn line, and one of an older format, is left out."""
    found = []
    for line in storage.read_text(METRICS).splitlines() if storage.exists(METRICS) else []:
        try:
            numbers = json.loads(line)
        except ValueError:
            continue
        if isinstance(numbers, dict) and {"kind", "training", "round", "step", "run_step"} <= numbers.keys():
            found.append(numbers)
    return found
