"""Verb `rows`: rows of a table of a run."""

from __future__ import annotations

import argparse
import json
import sys

from tapir_ray.cli.options import RUN, positive, takes_json

HELP = "show rows of a table of a run, sorted and selected"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir rows`."""
    command.add_argument("run", help=RUN)
    command.add_argument("--table", default="scored", help="name of a table, such as generated, or its path in the run")
    command.add_argument("--round", type=positive, metavar="N", help="round of the table; without it the last finished")
    command.add_argument("--sort", default="", metavar="COLUMN", help="sort by it; -COLUMN from its highest value")
    command.add_argument("--limit", type=positive, default=20, metavar="N", help="rows to show (20)")
    command.add_argument(
        "--where", action="extend", nargs="+", default=[], metavar="COLUMN=VALUE", help="only rows with this value"
    )
    command.add_argument("--columns", action="extend", nargs="+", default=[], metavar="COLUMN", help="columns to show")
    takes_json(command)


def run(options: argparse.Namespace) -> int:
    """Prints the rows and returns 0. Raises errors as `report.rows.rows` does."""
    from tapir_ray.methods import layout_of
    from tapir_ray.report.rows import Choice, print_rows, rows
    from tapir_ray.report.stored import stored_run

    run = stored_run(options.run)
    choice = Choice(options.table, options.round, options.sort, options.limit, options.where, options.columns)
    found = rows(run, layout_of(run.stored_config()), choice)
    if options.json:
        print(json.dumps(found.as_json(), ensure_ascii=False, default=str))
    else:
        print_rows(found, sys.stdout)
    return 0
