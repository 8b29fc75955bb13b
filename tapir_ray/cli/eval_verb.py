"""Verb `eval`: its options, and what it prints."""

from __future__ import annotations

import argparse
import sys


def add_options(command: argparse.ArgumentParser, set_help: str) -> None:
    """Adds the options of `tapir eval`; `set_help` is the help text of `--set`."""
    command.add_argument("target", metavar="RUN|MODEL", help="folder or URI of a run, or HF folder or name of a model")
    command.add_argument(
        "--suite", action="extend", nargs="+", required=True, metavar="SUITE", help="suites, as in evaluate.suites"
    )
    command.add_argument("--before", action="store_true", help="also measure the student before the run, and compare")
    command.add_argument("--against", metavar="RUN|MODEL", help="measure this one too, and compare on the same items")
    command.add_argument(
        "--config", metavar="FILE", help="YAML file with other settings than those of the run; a model needs none"
    )
    command.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=set_help)
    command.add_argument("--run-dir", help="folder or URI for the results of a model; without it runs/eval-…")
    command.add_argument("--json", action="store_true", help="print JSON")


def evaluate(options: argparse.Namespace) -> int:
    """Runs the command and returns its exit status. Raises errors as `evaluate_students` does."""
    import json

    from tapir_ray.cli.evaluate import evaluate_students, show

    found = evaluate_students(
        options.target, options.suite, options.before, options.against, options.config, options.set, options.run_dir
    )
    if options.json:
        print(json.dumps(found))
    else:
        show(found, sys.stdout)
    return 0
