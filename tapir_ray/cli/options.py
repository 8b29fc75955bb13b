"""Options that several verbs share."""

from __future__ import annotations

import argparse

from tapir_ray.config import Config, load

SET = "change keys of the config, such as curriculum.rounds=2"
RUN = "folder or URI of the run"
RUN_DIR = "folder or URI of the run; a folder that holds this run already is continued"


def configured(options: argparse.Namespace) -> tuple[Config, str]:
    """Returns the config of a command's options, and the folder or URI of its run."""
    config = load(options.config, options.set)
    return config, options.run_dir or config.run_dir or f"runs/{config.name}"


def takes_config(command: argparse.ArgumentParser, run_dir: str) -> None:
    """Adds the options that `configured` reads to a command; `run_dir` is the help text of `--run-dir`."""
    command.add_argument("config", help="YAML file")
    takes_set(command)
    command.add_argument("--run-dir", help=run_dir)


def takes_set(command: argparse.ArgumentParser) -> None:
    """Adds `--set KEY=VALUE …` to a command."""
    command.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=SET)


def takes_address(command: argparse.ArgumentParser, help: str, env_help: str) -> None:
    """Adds `--address URL`, which asks a cluster, and `--env NAME …`, the variables that go along."""
    command.add_argument("--address", metavar="URL", help=help)
    command.add_argument("--env", action="extend", nargs="+", default=[], metavar="NAME", help=env_help)


def takes_json(command: argparse.ArgumentParser) -> None:
    """Adds `--json` to a command."""
    command.add_argument("--json", action="store_true", help="print JSON")


def positive(text: str) -> int:
    """Returns a whole number of at least 1 from an option's text. Raises an ArgumentTypeError for any other text."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return int(text)
