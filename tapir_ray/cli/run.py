"""Runs a method for the command line: progress goes to stderr, the final table to stdout.

launch(load("configs/demo.yaml"), "runs/demo")
"""

from __future__ import annotations

import sys
from typing import Any

from tapir_ray.api import launch as work
from tapir_ray.cli.terminal import TERMINAL
from tapir_ray.config import Config
from tapir_ray.methods import method_of
from tapir_ray.run.layout import REPORT_FILE
from tapir_ray.run.run import Run


def launch(config: Config, run_dir: str, until: str = "", start: str = "", fork_of: str = "") -> None:
    """Runs or continues the loop in `run_dir`. Arguments and errors are those of `api.launch.launch`."""
    show(config, run_dir, work.launch(config, run_dir, until, start, fork_of, TERMINAL))


def retry(run_dir: str, overrides: list[str] | None = None) -> None:
    """Asks again for the failed rows of a run. Arguments and errors are those of `api.launch.retry`."""
    config, summary = work.retry(run_dir, overrides, TERMINAL)
    show(config, run_dir, summary)


def regenerate(config: Config, run_dir: str) -> None:
    """Regenerates the config's dataset in `run_dir`, or continues. Raises errors as `api.launch.regenerate` does."""
    show(config, run_dir, work.regenerate(config, run_dir, TERMINAL))


def evaluate(config: Config, run_dir: str) -> None:
    """Runs the suites of `evaluate.suites` on the students of a run; as `launch`, but without training.

    Raises InputError if a round of the run is not trained yet.
    """
    work.refuse_untrained(config, run_dir)
    launch(config, run_dir)


def show(config: Config, run_dir: str, summary: dict[str, Any]) -> None:
    """Prints the summary of a run to stdout, and where its report is."""
    run = Run.at(run_dir)
    method_of(config).show(summary, run, sys.stdout)
    if run.exists(REPORT_FILE):
        print(f"report: {run.uri_of(REPORT_FILE)}")
