"""Verb `check`: a config and its forecast, or a cluster."""

from __future__ import annotations

import argparse
import sys

from tapir_ray.cli.options import configured, positive, takes_address, takes_config, takes_json
from tapir_ray.errors import InputError

HELP = "check a config and estimate the requests, tokens and cost of its run"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir check`."""
    takes_config(command, "folder or URI of the run; a pilot gets its own folder next to it")
    command.add_argument(
        "--pilot", type=positive, default=0, metavar="N", help="send N real rows through every stage first"
    )
    takes_address(
        command,
        "check the capacity, models and storage of this cluster instead",
        "with --address: environment variables to pass on to the workers",
    )
    takes_json(command)


def run(options: argparse.Namespace) -> int:
    """Checks the config or the cluster; returns 1 if a row of the table says `fail`, else 0.

    Raises errors as `check` and `check_cluster` do.
    """
    from tapir_ray.api.checks import FAIL
    from tapir_ray.cli.check import check

    if options.address:
        return _check_cluster(options)
    report = check(*configured(options), options.pilot, options.json)
    # A script that checks before it submits must not have to read the table.
    return 1 if any(one["status"] == FAIL for one in report["checks"]) else 0


def _check_cluster(options: argparse.Namespace) -> int:
    import json

    from tapir_ray.cli.check_cluster import check_by_job, check_cluster, show
    from tapir_ray.cluster.jobs.submit import Submission

    config, run_dir = configured(options)
    if options.pilot:
        raise InputError("--pilot sends rows from this machine and --address checks a cluster: give only one of them")
    if "://" in options.address:
        submission = Submission(config, options.config, run_dir, "check", tuple(options.set))
        found = check_by_job(submission, options.address, options.env)
    else:
        found = check_cluster(config, run_dir, options.address)
    if options.json:
        print(json.dumps(found))
    else:
        show(found, sys.stdout)
    return 0
