"""Writes of a ledger to storage that may fail for some time.

saving = Saving(time.monotonic, gives_up=True)
if not saving.kept(save): ...                  # try again after AGAIN_S, unless `saving.problem` is set
"""

from __future__ import annotations

from collections.abc import Callable

from tapir_ray.data.values import one_line

AGAIN_S, PATIENCE_S = 0.5, 60.0
"""Seconds before a failed write of a lease is tried again, and seconds of failures after which the run gives up."""


class Saving:
    """Timer of failing writes. With `gives_up`, `problem` is a message once writes have failed for PATIENCE_S."""

    def __init__(self, clock: Callable[[], float], gives_up: bool) -> None:
        self.problem: str | None = None
        self._clock, self._gives_up = clock, gives_up
        self._failing_since: float | None = None

    def kept(self, save: Callable[[], None]) -> bool:
        """Calls `save`; returns False if it raises OSError."""
        try:
            save()
        except OSError as error:
            now = self._clock()
            self._failing_since = now if self._failing_since is None else self._failing_since
            seconds = now - self._failing_since
            if self._gives_up and seconds >= PATIENCE_S:
                self.problem = (
                    f"the usage of the run could not be written to its storage for {seconds:.0f} s "
                    f"({one_line(error)[:300]}), so no more requests are sent under its budget; free disk "
                    "space or restore access to the run directory, then start the same command again"
                )
            return False
        self._failing_since = None
        return True
