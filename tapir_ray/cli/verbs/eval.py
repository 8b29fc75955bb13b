"""Verb `eval`: a student measured by evaluation suites."""

from __future__ import annotations

import argparse
import sys

from tapir_ray.cli.options import takes_json, takes_set
from tapir_ray.errors import InputError

HELP = "measure the student of a run, or a model, by evaluation suites"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir eval`."""
    command.add_argument(
        "target", nargs="?", metavar="RUN|MODEL", help="folder or URI of a run, or HF folder or name of a model"
    )
    command.add_argument(
        "--suite", action="extend", nargs="+", default=[], metavar="SUITE", help="suites, as in evaluate.suites"
    )
    command.add_argument("--before", action="store_true", help="also measure the student before the run, and compare")
    command.add_argument("--against", metavar="RUN|MODEL", help="measure this one too, and compare on the same items")
    command.add_argument(
        "--config", metavar="FILE", help="YAML file with other settings than those of the run; a model needs none"
    )
    takes_set(command)
    command.add_argument("--run-dir", help="folder or URI for the results of a model; without it runs/eval-…")
    command.add_argument(
        "--annotations", metavar="FILE", help="print the win rate of a file of AlpacaEval annotations, measure nothing"
    )
    takes_json(command)


def run(options: argparse.Namespace) -> int:
    """Runs the command and returns its exit status. Raises errors as `evaluate_students` and `win_rate` do."""
    import json

    if options.annotations is not None:
        if options.target is not None or options.suite:
            raise InputError("--annotations reads a file and measures nothing: leave RUN|MODEL and --suite out")
        return _show_annotations(options.annotations, options.json)
    if options.target is None or not options.suite:
        raise InputError("give a run or a model, and --suite with at least one suite; or --annotations FILE")
    from tapir_ray.api.students import evaluate_students
    from tapir_ray.cli.evaluate import show
    from tapir_ray.cli.terminal import TERMINAL

    found = evaluate_students(
        options.target,
        options.suite,
        options.before,
        options.against,
        options.config,
        options.set,
        options.run_dir,
        TERMINAL,
    )
    if options.json:
        print(json.dumps(found))
    else:
        show(found, sys.stdout)
    return 0


def _show_annotations(path: str, as_json: bool) -> int:
    import json
    from dataclasses import asdict

    from tapir_ray.evaluate.alpaca_eval_annotations import win_rate

    found = win_rate(path)
    print(json.dumps(asdict(found)) if as_json else found.in_words)
    return 0
