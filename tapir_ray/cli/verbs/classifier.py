"""Verb `classifier`: the task classifier alone."""

from __future__ import annotations

import argparse

from tapir_ray.cli.options import configured, takes_config

HELP = "label rows by the teacher, train the task classifier on them, score it"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir classifier`."""
    command.add_argument("action", choices=("label", "train", "score"))
    takes_config(command, "folder or URI of the run that holds the labels and the classifier")
    command.add_argument(
        "--rows",
        nargs="+",
        default=[],
        metavar="[TASK=]FILE",
        help="files to train or score on, with a task for each row (column seed_data.task_column) or for a whole file",
    )
    command.add_argument(
        "--model", help="score: Hugging Face name or folder of a fine-tuned classifier, not the run's own"
    )


def run(options: argparse.Namespace) -> int:
    """Labels, trains or scores, and returns 0. Raises errors as `prepare` and `score` do."""
    from tapir_ray.cli import classifier

    config, run_dir = configured(options)
    if options.action == "score":
        classifier.score(config, run_dir, options.rows, options.model)
    else:
        classifier.prepare(config, run_dir, options.action == "train", options.rows)
    return 0
