"""Writes of a ledger to storage that may fail for a while.

saving = Saving(time.monotonic, gives_up=True)
if not saving.kept(save): ...                  # to be tried again after AGAIN_S, unless there is a `saving.problem`
"""

from __future__ import annotations

from collections.abc import Callable

from tapir_ray.data.values import one_line

AGAIN_S, PATIENCE_S = 0.5, 60.0
"""After which a lease that could not be written is tried again, and after which storage is given up."""


class Saving:
    """Since when writes fail; `problem` says so once it has lasted for PATIENCE_S, if the run is to end by it."""

    def __init__(self, clock: Callable[[], float], gives_up: bool) -> None:
        self.problem: str | None = None
        self._clock, self._gives_up = clock, gives_up
        self._failing_since: float | None = None

    def kept(self, save: Callable[[], None]) -> bool:
        """Call `save`; False if it raises OSError."""
        try:
            save()
        except OSError as error:
            now = self._clock()
            self._failing_since = now if self._failing_since is None else self._failing_since
            seconds = now - self._failing_since
            if self._gives_up and seconds >= PATIENCE_S:
                self.problem = (
                    f"what the run spends cannot be written to its storage for {seconds:.0f} s "
                    f"({one_line(error)[:300]}), so no more is asked under its budget; make room or "
                    "restore access to the run directory and start the same command again"
                )
            return False
        self._failing_since = None
        return True
