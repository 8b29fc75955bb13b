"""Caller of the package: a program, to which results are returned, or the command line, which prints.

with started(config, "runs/demo", caller=PROGRAM) as context: ...
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

WARNING = "warning: "
"""Begin of a warning."""
Tell = Callable[[str], None]
"""Function that gets a message of one line."""


def ignore(message: str) -> None:
    """Does nothing with a message."""


@dataclass(frozen=True)
class Caller:
    """Caller of a run."""

    tell: Tell = ignore
    """Gets warnings, and, unless `shows` is set, a line at the end of each stage."""
    shows: bool = False
    """Whether the progress of stages is printed to stderr, in place on a terminal."""
    signals: bool = False
    """Whether SIGTERM and Ctrl-C stop the run with `Stopped`. A program may have handlers of its own."""

    def warn(self, sentence: str) -> None:
        """Tells a warning."""
        self.tell(f"{WARNING}{sentence}")

    def noting(self, told: list[str]) -> Caller:
        """Returns the same caller, whose messages are added to a list as well."""

        def tell(message: str) -> None:
            told.append(message)
            self.tell(message)

        return replace(self, tell=tell)


PROGRAM = Caller()
"""Caller that is told nothing."""


class _Told(logging.Handler):
    """Tells warnings of the package's modules to the caller."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(logging.WARNING)
        self._caller = caller

    def emit(self, record: logging.LogRecord) -> None:
        self._caller.warn(record.getMessage())


@contextmanager
def logged(caller: Caller) -> Iterator[None]:
    """Context manager in which warnings that modules of the package log are told to the caller.

    Without a handler Python prints them to stderr.
    """
    handler, log = _Told(caller), logging.getLogger("tapir_ray")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
