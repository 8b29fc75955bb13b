"""Deletes a table so that a crash on the way never leaves a half that looks like an unfinished table.

    remove(fs, "/runs/a/rounds/01/generated")     # writes a mark, deletes the manifest, the rows, and last the mark
    finish(fs, folder)                            # before a table is resumed: completes the removal of a killed process

A table without a manifest is resumed with its rows. The mark says that these rows must be deleted too. As long as the
manifest exists, the table is finished and the mark has no effect.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

from tapir_ray.data import atomic_files
from tapir_ray.run.manifest import MANIFEST

MARK = "_removing"
"""File in the folder of a table that is being deleted."""
FILES_AT_ONCE = 16
"""Files that a task has open together, where each costs it some round trips to the storage."""


def remove(fs: pafs.FileSystem, folder: str) -> None:
    """Deletes a folder and all tables in it. Does nothing if the folder does not exist."""
    found = fs.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
    files = [info.path for info in found if info.type == pafs.FileType.File]
    tables = sorted({folder, *(path.rpartition("/")[0] for path in files if path.endswith(f"/{MANIFEST}"))})
    if not found and fs.get_file_info(folder).type == pafs.FileType.NotFound:
        return
    marks = [f"{table}/{MARK}" for table in tables]
    manifests = [path for path in files if path.endswith(f"/{MANIFEST}")]
    # Marks before manifests: without one, the rows of a folder that lost its manifest would be resumed.
    for mark in marks:
        atomic_files.write_bytes(fs, mark, b"{}\n")
    for path in manifests:
        fs.delete_file(path)
    others = [path for path in files if path not in {*marks, *manifests}]
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(fs.delete_file, others))
    # The marks go last, with the folder: after a crash before this line, `finish` deletes the rest.
    fs.delete_dir(folder)


def finish(fs: pafs.FileSystem, folder: str) -> bool:
    """Completes the removal of a table whose manifest is already deleted; returns whether there was one to complete."""
    marked, whole = (fs.get_file_info(f"{folder}/{name}").type != pafs.FileType.NotFound for name in (MARK, MANIFEST))
    if marked and not whole:
        remove(fs, folder)
    return marked and not whole
