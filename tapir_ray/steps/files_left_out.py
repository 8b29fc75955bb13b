"""Says what is not read of a path: files of other kinds, hidden or empty ones, splits."""

from __future__ import annotations

from tapir_ray.data.file_names import Use
from tapir_ray.data.files import Found, find, find_seed, is_hub_id
from tapir_ray.data.readers import hub_note
from tapir_ray.steps.context import Context

LEFT_OUT = "left_out"
"""An event with `key`, `path` and `what`."""


def files(context: Context, path: str, key: str, use: Use) -> list[str]:
    """The files at a path; what is left out of it is printed and becomes an event. Raises InputError as `find` does."""
    found = find(path, key, use)
    say(context, found, path, key)
    return found.files


def say(context: Context, found: Found, path: str, key: str) -> None:
    """Print what was left out of a path, each kind on a line, and add it to the events of the run."""
    for note in found.left_out:
        context.progress.say(f"{key} {path}: {note}")
    if found.left_out:
        context.run.event(LEFT_OUT, key=key, path=path, what=found.left_out)


def seed_files(context: Context) -> list[str]:
    """The files of the seed data; what is left out is told, and of a hub dataset its other splits."""
    seed_data = context.config.seed_data
    found = find_seed(seed_data)
    if found.files and is_hub_id(found.files[0]) and (note := hub_note(found.files[0], seed_data.revision)):
        found.left_out.append(note)
    say(context, found, seed_data.path or "", "seed_data.path")
    return found.files
