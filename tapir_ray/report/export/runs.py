"""Runs that are only read: their config, and a message for a folder without one."""

from __future__ import annotations

from tapir_ray.config import Config
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError
from tapir_ray.run.run import Run


def open_run(uri: str) -> tuple[Run, Config]:
    """Returns the run in a folder or at a URI with its config. Raises InputError if there is none."""
    run = Run.at(uri)
    if not run.exists("config.yaml") or not (run.exists("attempts") or run.exists("events.jsonl")):
        raise InputError(f"{run.uri} holds no run (no config.yaml): give the --run-dir that it was started with")
    return run, run.stored_config()


def refuse_inside(run: Run, out: str) -> None:
    """Raises InputError for a target in the folder of the run, which an export only reads."""
    target = Storage.at(out)
    if type(target.fs) is type(run.fs) and f"{target.root}/".startswith(f"{run.root}/"):
        raise InputError(f"--out {out} is in the folder of the run: give another folder or URI")
