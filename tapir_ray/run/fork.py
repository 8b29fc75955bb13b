"""`tapir run --fork OLD`: a new run that takes over what a changed config leaves valid of an older one.

fork("runs/a", "runs/b", config, layout)     # runs/b holds the outputs of runs/a that `config` would make again
"""

from __future__ import annotations

import posixpath

import pyarrow.fs as pafs

from tapir_ray.config import Config
from tapir_ray.config.differences import differences
from tapir_ray.data.atomic_files import WRITING
from tapir_ray.errors import InputError
from tapir_ray.run.attempts import refuse_beside_another
from tapir_ray.run.layout import Layout
from tapir_ray.run.lineage import changed_by, following
from tapir_ray.run.manifest import MANIFEST
from tapir_ray.run.run import Run

BEGUN, DONE = "fork_begun", "fork"
"""Events: a new run with the first and without the second was stopped while it was filled."""


def fork(old_uri: str, new_uri: str, config: Config, layout: Layout) -> list[str]:
    """Copy the outputs of the run at `old_uri` that `config` leaves valid into a new run; returns their paths.

    `layout` is that of the config's method.
    Does nothing if the new run exists and is whole: it is continued. The cached replies are copied too, and the records
    of batches under way. Raises InputError where there is no old run, or where somebody works on it.
    """
    old, new = Run.at(old_uri), Run.at(new_uri)
    begun = new.exists("attempts") or new.exists("events.jsonl")
    if begun and (not new.events(BEGUN) or new.events(DONE)):
        return []
    if not old.exists("config.yaml"):
        raise InputError(f"--fork {old_uri}: there is no run (no config.yaml)")
    refuse_beside_another(old)
    before = old.stored_config()
    stale = following(changed_by(differences(before, config), layout), layout)
    kept = [table for table in layout.all() if table not in stale and old.exists(table.path)]
    new = Run.open(config, new_uri)
    if not new.events(BEGUN):
        new.event(BEGUN, of=old.uri)
    for name in [*(table.path for table in kept), "cache", "batches"]:
        if not new.done(name) and old.exists(name):
            _copy(old, new, name)
    for file in [file for table in kept for file in table.files if old.exists(file)]:
        new.write_text(file, old.read_text(file))
    paths = [table.path for table in kept]
    new.event(DONE, of=old.uri, kept=paths)
    return paths


def _copy(old: Run, new: Run, folder: str) -> None:
    """Copy a folder, its manifest (or the classifier's report) last: an output without one does not exist."""
    found = old.fs.get_file_info(pafs.FileSelector(old.path(folder), recursive=True))
    files = [info.path.removeprefix(f"{old.root}/") for info in found if info.type == pafs.FileType.File]
    files = [name for name in files if not posixpath.basename(name).startswith(WRITING)]
    for name in sorted(files, key=lambda name: posixpath.basename(name) in (MANIFEST, "report.json")):
        new.fs.create_dir(posixpath.dirname(new.path(name)), recursive=True)
        pafs.copy_files(old.path(name), new.path(name), source_filesystem=old.fs, destination_filesystem=new.fs)
