"""Interface of trackers, which receive the numbers of a run while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

Numbers = Mapping[str, Any]
"""Values by name: mostly numbers, and some texts such as the name of a stage."""
OF_THE_STEP = ("training", "step", "run_step")
"""Values of a step that say which one it is."""


@dataclass(frozen=True)
class RunInfo:
    """A run, described for a tracker. Keys and passwords are replaced by stars."""

    run_id: str
    """Identifies the run and its folder; the same for all attempts."""
    name: str
    uri: str
    attempt: int
    """Number of this start of the run, from 1."""
    config: Mapping[str, Any]
    earlier: Sequence[tuple[str, Numbers, int]]
    """Numbers that earlier attempts have logged for their rounds, oldest first, as (kind, numbers, round)."""
    earlier_steps: Sequence[tuple[str, Numbers, int]] = ()
    """Numbers of the steps that earlier attempts have logged, in the same form (see `Tracker.log_steps`)."""


class Tracker:
    """Receiver of the numbers of a run. The methods do nothing unless a tracker overrides them."""

    end_s: ClassVar[float | None] = None
    """Seconds that the end of a run waits for it; None for the default."""

    def start(self, run: RunInfo) -> None:
        """Receives the run when it starts or continues."""

    def log(self, kind: str, numbers: Numbers, round_number: int | None = None, step: int | None = None) -> None:
        """Receives the numbers of an event. docs/trackers.md lists the kinds and their numbers."""

    def log_steps(self, kind: str, steps: Sequence[Numbers], round_number: int) -> None:
        """Receives numbers of steps of a round's training while it runs; unless overridden, logs them one by one.

        Each has `step` (from 0), `run_step` (counted over all trainings of its kind) and `training` (the name of the
        training), next to `loss` and `learning_rate`, or next to `holdout_loss` (the steps completed before it).
        """
        for numbers in steps:
            values = {name: value for name, value in numbers.items() if name not in OF_THE_STEP}
            self.log(kind, values, round_number, numbers["step"])

    def progress(self, stages: Sequence[Numbers], usage: Mapping[str, Mapping[str, Numbers]]) -> None:
        """Receives the progress of the run every few seconds and at its end.

        `stages` are the stages of this attempt that write a table: `stage`, `rows`, `expected`, `failed`, and
        `seconds_without_row` (None once the stage has all its rows). `usage` covers all attempts, by role and kind of
        request: `requests`, `failed`, `tokens`, `cost` (US dollars), and tokens by type such as `cached_tokens`.
        """

    def end(self, status: str) -> None:
        """Receives the end of the attempt: `completed`, `stopped` (the run can be continued) or `failed`."""
