"""Verb `compare`: two runs on the rows that both evaluated."""

from __future__ import annotations

import argparse
import json
import sys

from tapir_ray.cli.options import RUN, takes_json

HELP = "say how much better the students of a run are than those of another"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir compare`."""
    command.add_argument("run", help=RUN)
    command.add_argument("other", help="folder or URI of the run that it is compared with")
    takes_json(command)


def run(options: argparse.Namespace) -> int:
    """Prints the comparison and returns 0. Raises errors as `compare` does."""
    from tapir_ray.methods import layout_of
    from tapir_ray.report.compare import compare, print_comparison

    found = compare(options.run, options.other, layout_of)
    if options.json:
        print(json.dumps(found))
    else:
        print_comparison(found, sys.stdout)
    return 0
