"""`tapir run --fork OLD`: starts a new run with the outputs of an older one that are valid for a changed config.

fork("runs/a", "runs/b", config, layout)     # copies the outputs of runs/a that do not depend on changed keys to runs/b
"""

from __future__ import annotations

import posixpath

import pyarrow.fs as pafs

from tapir_ray.config import Config
from tapir_ray.config.differences import differences
from tapir_ray.data.atomic_files import WRITING
from tapir_ray.errors import InputError
from tapir_ray.run.attempts import refuse_second_owner
from tapir_ray.run.layout import Layout
from tapir_ray.run.lineage import changed_by, following
from tapir_ray.run.manifest import MANIFEST
from tapir_ray.run.run import Run

BEGUN, DONE = "fork_begun", "fork"
"""Events at the begin and the end of copying. A new run with the first event only was interrupted, and copies again."""


def fork(old_uri: str, new_uri: str, config: Config, layout: Layout) -> list[str]:
    """Copies the outputs of the run at `old_uri` that are valid for `config` to a new run. Returns their paths.

    `layout` is the layout of the config's method. Cached replies and records of open batches are copied too. Returns []
    for a new run that was already copied, which is then continued. Raises InputError if there is no old run, or if
    another process works on it.
    """
    old, new = Run.at(old_uri), Run.at(new_uri)
    begun = new.exists("attempts") or new.exists("events.jsonl")
    if begun and (not new.events(BEGUN) or new.events(DONE)):
        return []
    if not old.exists("config.yaml"):
        raise InputError(f"--fork {old_uri}: there is no run (no config.yaml); give the folder of a run")
    # A run that still writes could be copied in the middle of a table.
    refuse_second_owner(old)
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
    """Copies a folder, its manifest (or the classifier's report) last: an output without one does not exist."""
    found = old.fs.get_file_info(pafs.FileSelector(old.path(folder), recursive=True))
    files = [info.path.removeprefix(f"{old.root}/") for info in found if info.type == pafs.FileType.File]
    files = [name for name in files if not posixpath.basename(name).startswith(WRITING)]
    for name in sorted(files, key=lambda name: posixpath.basename(name) in (MANIFEST, "report.json")):
        new.fs.create_dir(posixpath.dirname(new.path(name)), recursive=True)
        pafs.copy_files(old.path(name), new.path(name), source_filesystem=old.fs, destination_filesystem=new.fs)
