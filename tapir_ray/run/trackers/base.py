"""The interface of a tracker: a place that the numbers of a run go to while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Numbers = Mapping[str, Any]
"""Values by name; most are numbers, some are words, such as the name of a stage."""


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of a run; keys and passwords in it are starred."""

    run_id: str
    """Names the run and its folder: the same for every start of it."""
    name: str
    uri: str
    attempt: int
    """Counts the starts of the run, from 1."""
    config: Mapping[str, Any]
    earlier: Sequence[tuple[str, Numbers, int]]
    """What earlier attempts logged of their rounds, oldest first: the kind, its numbers, the round."""


class Tracker:
    """Takes the numbers of a run. Each method does nothing until a tracker overrides it."""

    def start(self, run: RunInfo) -> None:
        """The run starts, or goes on."""

    def log(self, kind: str, numbers: Numbers, round_number: int | None = None, step: int | None = None) -> None:
        """Something was done, once: `kind` says what, and docs/trackers.md lists the kinds with their numbers."""

    def log_steps(self, kind: str, steps: Sequence[Numbers], round_number: int) -> None:
        """The numbers of all steps of a round's training, from step 0 on; logs them one by one."""
        for step, numbers in enumerate(steps):
            self.log(kind, numbers, round_number, step)

    def progress(self, stages: Sequence[Numbers], usage: Mapping[str, Mapping[str, Numbers]]) -> None:
        """How far the run is, every few seconds and at its end.

        `stages` are those of this attempt that write a table: `stage`, `rows`, `expected`, `failed`, and
        `seconds_without_row` (None once it has all its rows). `usage` is by role and kind of request, of all attempts:
        `requests`, `failed`, `tokens`, `cost` (US dollars), and the tokens by what they are.
        """

    def end(self, status: str) -> None:
        """The start ends as `completed`, `stopped` (it can be continued) or `failed`."""
