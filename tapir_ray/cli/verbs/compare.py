"""Verb `compare`: runs on the rows that they all evaluated."""

from __future__ import annotations

import argparse
import json
import sys

from tapir_ray.cli.options import takes_json

HELP = "say how much better the students of a run are than those of others"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir compare`."""
    command.add_argument("run", help="folder or URI of the run")
    command.add_argument("others", nargs="+", metavar="other", help="folder or URI of a run that it is compared with")
    command.add_argument("--report", metavar="FILE", help="write the runs side by side as one HTML file")
    takes_json(command)


def run(options: argparse.Namespace) -> int:
    """Prints the comparisons and returns 0. Raises errors as `compare` does."""
    from tapir_ray.methods import layout_of
    from tapir_ray.report.compare import compare_scored, print_comparison, scored

    first, *others = (scored(uri, layout_of) for uri in (options.run, *options.others))
    found = [compare_scored(first, other) for other in others]
    if options.json:
        print(json.dumps(found[0] if len(found) == 1 else found))
    else:
        for number, comparison in enumerate(found):
            print("\n" * bool(number), end="")
            print_comparison(comparison, sys.stdout)
    if options.report:
        from tapir_ray.api.report import to_file
        from tapir_ray.methods.forecast import REPORTED
        from tapir_ray.report.html.compared import compared_page

        place = to_file(compared_page([first, *others], found, REPORTED), options.report)
        print(f"report: {place}", file=sys.stderr if options.json else sys.stdout)
    return 0
