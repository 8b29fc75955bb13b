"""Verb `submit`: a job on a cluster."""

from __future__ import annotations

import argparse

from tapir_ray.cli.options import configured, takes_config

HELP = "submit a job with this folder to a cluster, follow it, return its exit status"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir submit`."""
    takes_config(command, "URI of the run, or an absolute folder that all nodes share")
    command.add_argument("--job", required=True, metavar="NAME", help="jobs/NAME.py; its own arguments follow after --")
    command.add_argument(
        "--address", required=True, metavar="URL", help="dashboard of the cluster's head, http://HEAD:8265"
    )
    command.add_argument(
        "--env", action="extend", nargs="+", default=[], metavar="NAME", help="environment variables to pass on"
    )
    command.add_argument("--stop", action="store_true", help="stop the job that works on this run")


def run(options: argparse.Namespace) -> int:
    """Submits or stops the job and returns its exit status. Raises errors as `submit` and `stop` do."""
    from tapir_ray.cluster.jobs.submit import Submission, stop, submit

    config, run_dir = configured(options)
    submission = Submission(config, options.config, run_dir, options.job, tuple(options.set), tuple(options.for_job))
    if options.stop:
        stop(submission, options.address)
        return 0
    return submit(submission, options.address, options.env)
