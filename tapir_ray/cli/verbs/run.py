"""Verb `run`: the whole loop, or a part of it."""

from __future__ import annotations

import argparse

from tapir_ray.cli.options import RUN_DIR, configured, takes_config

HELP = "run or continue the whole loop"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir run`."""
    takes_config(command, RUN_DIR)
    command.add_argument(
        "--until", default="", metavar="STAGE", help="stop after this stage, in the first round that has it"
    )
    command.add_argument(
        "--from", dest="start", default="", metavar="STAGE=PATH", help="begin a stage with your own table"
    )
    command.add_argument("--fork", default="", metavar="RUN", help="begin a new run with the still valid tables of RUN")


def run(options: argparse.Namespace) -> int:
    """Runs the loop and returns 0. Raises errors as `launch` does."""
    from tapir_ray.cli.run import launch

    launch(*configured(options), options.until, options.start, options.fork)
    return 0
