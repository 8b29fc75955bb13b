"""Opens the folder of a run for reading."""

from __future__ import annotations

from tapir_ray.errors import InputError
from tapir_ray.run.run import Run


def stored_run(uri: str) -> Run:
    """Returns the run in a folder or at a URI. Raises InputError if there is none."""
    run = Run.at(uri)
    if not run.exists("config.yaml"):
        raise InputError(f"{run.uri} holds no run (no config.yaml): give the --run-dir that it was started with")
    return run
