"""Removing a table so that a crash on the way leaves no half that is taken for a table that was begun.

    remove(fs, "/runs/a/rounds/01/generated")     # the mark, the manifest, the rows, and last the mark again
    finish(fs, folder)                            # before a table is gone on with: what an earlier process had begun

A table without a manifest is gone on with: its rows are kept. So a mark says first that these rows go too. Until the
manifest is gone the table is whole and nothing has happened.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

from tapir_ray.data import atomic_files
from tapir_ray.run.manifest import MANIFEST

MARK = "_removing"
"""File of a table that is being removed."""
FILES_AT_ONCE = 16
"""Files that a task has open together, where each costs it some round trips to the storage."""


def remove(fs: pafs.FileSystem, folder: str) -> None:
    """Remove a folder and all tables in it; does nothing if it is not there."""
    found = fs.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
    files = [info.path for info in found if info.type == pafs.FileType.File]
    tables = sorted({folder, *(path.rpartition("/")[0] for path in files if path.endswith(f"/{MANIFEST}"))})
    if not found and fs.get_file_info(folder).type == pafs.FileType.NotFound:
        return
    marks = [f"{table}/{MARK}" for table in tables]
    manifests = [path for path in files if path.endswith(f"/{MANIFEST}")]
    for mark in marks:
        atomic_files.write_bytes(fs, mark, b"{}\n")
    for path in manifests:
        fs.delete_file(path)
    others = [path for path in files if path not in {*marks, *manifests}]
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(fs.delete_file, others))
    # The outer folder's mark last: while it is there, what is left inside still goes.
    fs.delete_dir(folder)


def finish(fs: pafs.FileSystem, folder: str) -> bool:
    """Remove what is left of a table whose removal was begun and whose manifest is gone; whether there was any."""
    marked, whole = (fs.get_file_info(f"{folder}/{name}").type != pafs.FileType.NotFound for name in (MARK, MANIFEST))
    if marked and not whole:
        remove(fs, folder)
    return marked and not whole
