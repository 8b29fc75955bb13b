"""Bars of the stages in progress on a terminal, with the time left; lines above them stay.

bars = Bars(sys.stderr)
bars.show(1, "round 1 score", 64, 1000, "64/1000 rows", "12,345 tokens")
bars.say("round 1 plan: …")
bars.remove(1)                       # the bars vanish with the last stage
"""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

LABEL_WIDTH, BAR_WIDTH = 26, 16
SPEED_S = 60.0
"""Seconds over which the speed is taken for the time left."""


class Bars:
    """Bars by the key of a stage. Called from several threads, one at a time."""

    def __init__(self, file: TextIO) -> None:
        # Without markup and emoji, since a task may be named `[red]` or `:bug:`.
        self._console = Console(file=file, highlight=False, markup=False, emoji=False)
        self._tasks: dict[int, TaskID] = {}
        self._progress: Progress | None = None

    def show(self, key: int, label: str, done: int, total: int | None, amount: str, text: str) -> None:
        """Shows a stage, or its new state. Without `total` the bar moves to and fro."""
        if self._progress is None:
            self._progress = self._started()
        if key not in self._tasks:
            # What earlier attempts have done is no speed.
            self._tasks[key] = self._progress.add_task(label, total=total, completed=done, amount="", text="")
        self._progress.update(self._tasks[key], total=total, completed=done, amount=amount, text=text)

    def remove(self, key: int) -> None:
        """Removes a stage; with the last one the bars vanish, and the terminal is as before."""
        if self._progress is None or (task := self._tasks.pop(key, None)) is None:
            return
        self._progress.remove_task(task)
        if not self._tasks:
            self._progress.stop()
            self._progress = None

    def say(self, text: str) -> None:
        """Prints a line above the bars, wrapped by the terminal."""
        self._console.print(text, soft_wrap=True)

    def _started(self) -> Progress:
        label, rest = Column(width=LABEL_WIDTH, no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=label),
            BarColumn(bar_width=BAR_WIDTH),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[amount]}", markup=False, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[text]}", markup=False, table_column=rest),
            console=self._console,
            transient=True,
            refresh_per_second=4,
            speed_estimate_period=SPEED_S,
            expand=True,
        )
        progress.start()
        return progress
