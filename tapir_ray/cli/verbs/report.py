"""Verb `report`: a run as one HTML file."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from tapir_ray.cli.options import RUN
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError

HELP = "write a run as one HTML file: what it gained and cost, and rows to read"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir report`."""
    command.add_argument("run", help=RUN)
    command.add_argument("--out", metavar="FILE", help="file to write; without it report.html in the run's folder")
    command.add_argument("--open", action="store_true", help="open the file in a browser")


def run(options: argparse.Namespace) -> int:
    """Writes the report and returns 0. Raises InputError if there is no run, or the file cannot be written."""
    from tapir_ray.api.report import written

    place = written(options.run, options.out)
    print(f"report: {place}")
    if options.open:
        _open(place)
    return 0


def _open(place: str) -> None:
    """Opens a page in a browser. Raises InputError for one on object storage, or without a browser."""
    if is_remote(place):
        raise InputError(f"{place} is not on this machine: write a copy with --out FILE to open it")
    if not webbrowser.open(Path(place).absolute().as_uri()):
        raise InputError(f"no browser could be started: open {place} yourself")
