"""Verb `regenerate`: a dataset again, without a student."""

from __future__ import annotations

import argparse

from tapir_ray.cli.options import RUN_DIR, configured, takes_config

HELP = "regenerate a dataset, shard by shard, without training"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir regenerate`."""
    takes_config(command, RUN_DIR)


def run(options: argparse.Namespace) -> int:
    """Runs the regeneration and returns 0. Raises errors as `regenerate` does."""
    from tapir_ray.cli.run import regenerate

    regenerate(*configured(options))
    return 0
