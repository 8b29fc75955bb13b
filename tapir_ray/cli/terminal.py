"""The command line as caller of the package: messages go to stderr, and signals stop a run."""

from __future__ import annotations

import sys

from tapir_ray.api.caller import Caller


def to_stderr(message: str) -> None:
    """Prints a message to stderr."""
    print(message, file=sys.stderr)


TERMINAL = Caller(to_stderr, shows=True, signals=True)
