"""Verb `report`: a run as one HTML file."""

from __future__ import annotations

import argparse

from tapir_ray.cli.options import RUN

HELP = "write a run as one HTML file: what it gained and cost, and rows to read"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir report`."""
    command.add_argument("run", help=RUN)
    command.add_argument("--out", metavar="FILE", help="file to write; without it report.html in the run's folder")
    command.add_argument("--open", action="store_true", help="open the file in a browser")


def run(options: argparse.Namespace) -> int:
    """Writes the report and returns 0. Raises InputError if there is no run, or the file cannot be written."""
    from tapir_ray.cli.report import written

    place = written(options.run, options.out)
    print(f"report: {place}")
    if options.open:
        from tapir_ray.cli.report import show

        show(place)
    return 0
