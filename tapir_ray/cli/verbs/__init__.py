"""The verbs of the command, a module each with `HELP`, `add_options` and `run`.

Modules that a verb works with are imported inside its `run`: `tapir --help` need not wait for Ray.
"""

from __future__ import annotations

import argparse
from typing import Protocol

from tapir_ray.cli.verbs import (
    chat,
    check,
    classifier,
    compare,
    eval,
    export,
    init,
    regenerate,
    report,
    retry,
    rows,
    run,
    serve,
    status,
    submit,
)


class Verb(Protocol):
    """A module of this package."""

    HELP: str

    def add_options(self, command: argparse.ArgumentParser) -> None:
        """Adds the verb's options to its command."""

    def run(self, options: argparse.Namespace) -> int:
        """Runs the command and returns its exit status."""


# In the order of `tapir --help`.
VERBS: dict[str, Verb] = {
    "init": init,
    "run": run,
    "regenerate": regenerate,
    "retry": retry,
    "check": check,
    "classifier": classifier,
    "submit": submit,
    "status": status,
    "eval": eval,
    "compare": compare,
    "report": report,
    "rows": rows,
    "export": export,
    "serve": serve,
    "chat": chat,
}
