"""Verb `export`: the rows or a student of a run, to a folder, a URI or a hub."""

from __future__ import annotations

import argparse
import json

from tapir_ray.cli.options import RUN, takes_json
from tapir_ray.cli.verbs.serve import STUDENT, STUDENTS

HELP = "export the rows or a student of a run, with a card, to a folder or a hub"
DATASET, MODEL = "dataset", "student"
FORMATS = ("alpaca", "openai", "sharegpt", "parquet", "hf", "preference")


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir export`."""
    command.add_argument("run", help=RUN)
    command.add_argument("--what", required=True, choices=(DATASET, MODEL))
    command.add_argument("--out", metavar="PATH", help="new folder or URI; may be left out with --push")
    command.add_argument("--overwrite", action="store_true", help="replace an earlier export at --out")
    command.add_argument("--push", metavar="REPO", help="also upload it to OWNER/NAME on the hub; needs HF_TOKEN")
    command.add_argument("--private", action="store_true", help="with --push: a new repository is private")
    command.add_argument("--format", choices=FORMATS, help="dataset: format of the rows")
    command.add_argument(
        "--table", metavar="TABLE", help="dataset: another table of the run than the training sets, by its path"
    )
    command.add_argument("--student", choices=STUDENTS, help=f"student: {STUDENT}")
    weights = command.add_mutually_exclusive_group()
    weights.add_argument("--adapter", action="store_true", help="student of a run with LoRA: the adapter alone")
    weights.add_argument("--merged", action="store_true", help="student of a run with LoRA: all weights (the default)")
    takes_json(command)


def run(options: argparse.Namespace) -> int:
    """Exports and returns 0. Raises errors as `export` does."""
    from tapir_ray.cli.export import export, show

    found = export(options)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)
    return 0
