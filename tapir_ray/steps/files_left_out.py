"""Reports the files of a path that are not read: other formats, hidden or empty files, other splits."""

from __future__ import annotations

from tapir_ray.data.file_names import Use
from tapir_ray.data.files import Found, find, find_seed, is_hub_id
from tapir_ray.data.readers import hub_note
from tapir_ray.steps.context import Context

LEFT_OUT = "left_out"
"""Event with `key`, `path` and `what` (list of strings)."""


def files(context: Context, path: str, key: str, use: Use) -> list[str]:
    """Returns the files at a path, and reports those left out. Raises InputError as `find` does."""
    found = find(path, key, use)
    say(context, found, path, key)
    return found.files


def say(context: Context, found: Found, path: str, key: str) -> None:
    """Prints what was left out of a path, one line a kind, and adds an event to the run."""
    for note in found.left_out:
        context.progress.say(f"{key} {path}: {note}")
    if found.left_out:
        context.run.event(LEFT_OUT, key=key, path=path, what=found.left_out)


def seed_files(context: Context) -> list[str]:
    """Returns the files of the seed data, and reports those left out and the other splits of a hub dataset."""
    seed_data = context.config.seed_data
    found = find_seed(seed_data)
    if found.files and is_hub_id(found.files[0]) and (note := hub_note(found.files[0], seed_data.revision)):
        found.left_out.append(note)
    say(context, found, seed_data.path or "", "seed_data.path")
    return found.files
