"""Live progress of a run: a bar or a line for each stage, numbers for trackers and heartbeat, a message about a stall.

progress = Progress(roles.usage, stall_after_s=300, note=run.event)
with progress.stage("round 1 score", "rounds/01/scored", expected=1000):
    progress.count("rounds/01/scored", rows=64, failed=1)
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tapir_ray.run.bars import Bars
from tapir_ray.run.spending import spending

TERMINAL_EVERY_S, LOG_EVERY_S = 0.5, 10.0
ASKER = "Asker"
"""Part of the name of every operator that sends requests (see `Roles.ask`)."""

_span: ContextVar[tuple[str | None, int | None]] = ContextVar("span", default=(None, None))
"""Stage of the method and round that a thread works on."""


@dataclass
class Stage:
    """State of one stage of this attempt; times are those of `time.monotonic`."""

    label: str
    table: str
    expected: int | None
    started: float
    moved: float
    """Time of the last written row, or of the last change of the facts."""
    span: tuple[str | None, int | None] = (None, None)
    rows: int = 0
    kept: int = 0
    """Rows from earlier attempts; `rows` includes them."""
    failed: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    waits: str | None = None
    stalled: bool = False
    ended: float | None = None
    completed: bool = False

    @property
    def seconds(self) -> float:
        """Seconds since the start of the stage, or its duration once it has ended."""
        return (self.ended or time.monotonic()) - self.started

    @property
    def still_s(self) -> float:
        """Seconds since the last row or change."""
        return (self.ended or time.monotonic()) - self.moved

    @property
    def rows_per_second(self) -> float:
        """Rows per second of this attempt, without those from earlier attempts."""
        return (self.rows - self.kept) / max(self.seconds, 1e-6)

    @property
    def can_stall(self) -> bool:
        """Whether the stage has to move: it has not ended, and expects more rows or has no table."""
        return self.ended is None and (not self.table or self.expected is None or self.rows < self.expected)

    @property
    def portion(self) -> tuple[int, int | None]:
        """(done, total): rows of a table, or steps of a training; total is None if it is not known."""
        if self.table:
            return self.rows, self.expected
        done, _, total = str(self.facts.get("step", "")).partition("/")
        return (int(done), int(total)) if done.isdigit() and total.isdigit() else (0, None)

    def move(self) -> None:
        """Notes that a row was written or a fact has changed."""
        self.moved, self.waits, self.stalled = time.monotonic(), None, False

    def told(self) -> dict[str, Any]:
        """Returns the state as JSON values for heartbeat and status: times in seconds, speed in rows per second."""
        return {
            "label": self.label,
            "stage": self.span[0],
            "round": self.span[1],
            "table": self.table or None,
            "rows": self.rows,
            "expected": self.expected,
            "failed": self.failed,
            "rows_per_second": round(self.rows_per_second, 3),
            "seconds": round(self.seconds, 1),
            "seconds_without_row": round(self.still_s, 1),
            "waits": self.waits,
            "facts": {key: str(value) for key, value in dict(self.facts).items()},
        }


class Progress:
    """Printer of stages: bars on a terminal, lines every LOG_EVERY_S in a file or pipe, a line at the end of each."""

    def __init__(
        self,
        usage: Callable[[], dict[str, Any]],
        stall_after_s: float = math.inf,
        note: Callable[..., None] | None = None,
        batch_s: float = 0.0,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Calls `note` with an event if a stage has not moved for `stall_after_s` seconds.

        A stage that waits for requests may stand still for `batch_s` seconds, the time of a batch at a provider. `tell`
        gets the lines of ended stages and of stalls; without it all lines are printed to stderr.
        """
        self.usage = usage
        self.started = time.monotonic()
        self._stall_after_s = stall_after_s
        self._note = note
        self._batch_s = batch_s
        self._tell = tell
        self._print = threading.Lock()
        self._bars = Bars(sys.stderr) if tell is None and sys.stderr.isatty() else None
        self._stages: list[Stage] = []
        self._by_table: dict[str, Stage] = {}
        self._followed: dict[str, Callable[[], dict[str, Any]]] = {}

    def keep(self, table: str, rows: int) -> None:
        """Adds rows from earlier attempts, which do not count as speed. Does nothing outside the table's stage."""
        if stage := self._by_table.get(table):
            stage.rows, stage.kept = stage.rows + rows, stage.kept + rows
            stage.move()

    def count(self, table: str, rows: int, failed: int) -> None:
        """Adds rows that were written to a table. Does nothing outside the table's stage."""
        if stage := self._by_table.get(table):
            stage.rows, stage.failed = stage.rows + rows, stage.failed + failed
            if rows:
                stage.move()

    def follow(self, table: str, facts: Callable[[], dict[str, Any]]) -> None:
        """Shows the names and values of `facts` in the line of a table until its stage ends.

        If `facts` raises, the last values stay.
        """
        self._followed[table] = facts

    def rows(self, table: str) -> int:
        """Returns the rows of a table so far."""
        return self._by_table[table].rows if table in self._by_table else 0

    def waits(self, table: str) -> str | None:
        """Returns the operator that the pipeline of a table waits for; None if none was seen since the last row."""
        return self._by_table[table].waits if table in self._by_table else None

    def told(self) -> list[dict[str, Any]]:
        """Returns the stages in progress and those that an error has ended (see `Stage.told`)."""
        return [stage.told() for stage in list(self._stages) if not stage.completed]

    def numbers(self) -> list[dict[str, Any]]:
        """Returns the stages of this attempt that write a table, for trackers (see `Tracker.progress`)."""
        return [
            {
                "stage": stage.label,
                "rows": stage.rows,
                "expected": stage.expected,
                "failed": stage.failed,
                "seconds_without_row": stage.still_s if stage.can_stall else None,
            }
            for stage in list(self._stages)
            if stage.table
        ]

    @contextmanager
    def span(self, stage: str, round_number: int) -> Iterator[None]:
        """Context manager that marks the stages of this thread with a stage of the method and a round."""
        token = _span.set((stage, round_number))
        try:
            yield
        finally:
            _span.reset(token)

    @contextmanager
    def stage(self, label: str, table: str = "", expected: int | None = None) -> Iterator[dict[str, Any]]:
        """Context manager that shows a stage while it runs. The dict that it gives is shown at the end of the line."""
        done = threading.Event()
        before = self.usage()
        now = time.monotonic()
        stage = Stage(label, table, expected, now, now, _span.get())
        self._stages.append(stage)
        if table:
            self._by_table[table] = stage

        def watch() -> None:
            while not done.wait(LOG_EVERY_S if self._bars is None else TERMINAL_EVERY_S):
                self._ask(stage)
                self.look(stage)
                self._show(stage, before)

        if self._bars is not None:
            self._show(stage, before)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield stage.facts
        finally:
            stage.ended = time.monotonic()
            done.set()
            watcher.join()
            self._ask(stage)
            self._followed.pop(table, None)
            if self._bars is not None:
                with self._print:
                    self._bars.remove(id(stage))
        # Not after an error: the heartbeat then still names the stage in which the run ended.
        stage.completed = True
        self.say(self._line(stage, before))

    def _ask(self, stage: Stage) -> None:
        """Replaces the facts of a stage by those of `follow`."""
        if facts := self._followed.get(stage.table):
            with suppress(Exception):  # the actor with the facts may have ended, and nothing depends on them
                found = facts()
                stage.facts.clear()
                stage.facts |= found

    def look(self, stage: Stage) -> None:
        """Checks whether a stage moves. After too long without a move, prints once which operator it waits for."""
        if stage.facts != stage.seen:
            stage.seen = dict(stage.facts)
            stage.move()
        if not stage.can_stall:
            return
        stage.waits = _waiting() or stage.waits
        asking_s = self._batch_s if ASKER in (stage.waits or "") else 0.0
        if stage.still_s < max(self._stall_after_s, asking_s) or stage.stalled:
            return
        stage.stalled = True
        what = "no row" if stage.table else "nothing new"
        where = f": {stage.waits}" if stage.waits else ""
        self.say(f"{stage.label}: {what} for {stage.still_s:.0f} s (resources.stall_after_s){where}")
        if self._note is not None:
            with suppress(OSError):  # storage may fail for a moment, and the line is already printed
                self._note("stalled", stage=stage.label, seconds=round(stage.still_s), waits=stage.waits)

    def say(self, text: str) -> None:
        """Tells a line, or prints it above the bars."""
        if self._tell is not None:
            self._tell(text)
            return
        with self._print:
            if self._bars is not None:
                self._bars.say(text)
            else:
                print(text, file=sys.stderr, flush=True)

    def _show(self, stage: Stage, before: dict[str, Any]) -> None:
        """Shows the state of a stage: its bar on a terminal, otherwise a line. Tells nothing."""
        if self._bars is None:
            if self._tell is None:
                self.say(self._line(stage, before))
            return
        done, total = stage.portion
        amount = self._amount(stage) if stage.table else ""
        text = "  ".join([*self._details(stage, before), f"{stage.seconds:.0f} s"])
        with self._print:
            self._bars.show(id(stage), stage.label, done, total, amount, text)

    def _line(self, stage: Stage, before: dict[str, Any]) -> str:
        parts = [f"[{time.monotonic() - self.started:6.0f} s] {stage.label:<24}"]
        parts += [self._amount(stage)] if stage.table else []
        parts += self._details(stage, before)
        parts.append(f"{'done in ' if stage.completed else ''}{stage.seconds:.0f} s")
        return "  ".join(parts)

    def _amount(self, stage: Stage) -> str:
        total = f"/{stage.expected}" if stage.expected is not None else ""
        # No speed before the first row: it would be 0.0 for the minutes in which engines start.
        speed = f"  {stage.rows_per_second:.1f} rows/s" if stage.rows > stage.kept else ""
        return f"{stage.rows}{total} rows{speed}  failed {stage.failed}"

    def _details(self, stage: Stage, before: dict[str, Any]) -> list[str]:
        spent = spending(self.usage(), before) if stage.table else []
        return spent + [f"{key} {value}" for key, value in dict(stage.facts).items()]


def _waiting() -> str | None:
    # Imported here, because it loads Ray Data.
    from tapir_ray.cluster.pipeline_monitor import waiting

    return waiting()
