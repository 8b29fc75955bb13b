"""Verb `retry`: the failed rows of a run again."""

from __future__ import annotations

import argparse

from tapir_ray.cli.options import RUN, takes_set

HELP = "ask again for the failed rows of a run, and redo the stages that follow"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir retry`."""
    command.add_argument("run", help=RUN)
    takes_set(command)


def run(options: argparse.Namespace) -> int:
    """Asks again for the failed rows and returns 0. Raises errors as `retry` does."""
    from tapir_ray.cli.run import retry

    retry(options.run, options.set)
    return 0
