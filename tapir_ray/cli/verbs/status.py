"""Verb `status`: where a run stands."""

from __future__ import annotations

import argparse
import json
import sys

from tapir_ray.cli.options import RUN, takes_address, takes_json

HELP = "show the progress of a run, its spending, and how to continue it"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir status`."""
    command.add_argument("run", help=RUN)
    takes_address(
        command,
        "ask by a job on this cluster: dashboard of its head, http://HEAD:8265",
        "with --address: environment variables that the job needs for the storage",
    )
    takes_json(command)


def run(options: argparse.Namespace) -> int:
    """Prints the status and returns 0. Raises errors as `status` and `remote_status` do."""
    from tapir_ray.methods import layout_of
    from tapir_ray.report.status import print_status, status

    if options.address:
        from tapir_ray.report.remote_status import remote_status

        found = remote_status(options.run, options.address, options.env)
    else:
        found = status(options.run, layout_of)
    if options.json:
        print(json.dumps(found))
    else:
        print_status(found, sys.stdout)
    return 0
