"""Model folders on storage: a machine that loads one copies it to its own disk first, once.

    folder = local("s3://bucket/runs/a/checkpoints/01")        # a HF name or a folder of this machine stays as it is
    with written(run, "checkpoints/base") as folder:
        model.save_pretrained(folder)

The copy's place is the same on every machine: a hash of where the model is, and of its files' names, sizes and times.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pyarrow.fs as pafs
from filelock import FileLock

from tapir_ray.cluster.private_folder import PRIVATE, private_folder, trusted
from tapir_ray.data.atomic_files import writing
from tapir_ray.data.storage import Storage, is_remote
from tapir_ray.errors import InputError
from tapir_ray.run import table_removal

FOLDER = "TAPIR_MODELS"
"""Environment variable: where the copies lie; unset, in the user's private folder for temporary files."""
MODEL = "TAPIR_MODEL"
"""Environment variable of an engine's processes: the URI of the model that has to be here before it is loaded."""
COPIES, UNUSED_S = 2, 3600.0
"""Of the models of one folder, such as the checkpoints of a run, so many copies stay, and those used within an hour."""


def folder() -> Path:
    """Where this machine keeps its copies, created if it is missing.

    Raises InputError for a folder to which another user could write: whoever can replace a model decides what is learnt
    from it, and with `trust_remote_code` what runs.
    """
    if named := os.environ.get(FOLDER):
        return trusted(Path(named).absolute(), FOLDER)
    place = private_folder() / "models"
    place.mkdir(PRIVATE, exist_ok=True)
    return place


def local(model: str) -> str:
    """A HF name or local folder as it is; of a URI the folder of this machine's copy, made if there is none.

    Raises InputError where a URI has no files.
    """
    if not is_remote(model):
        return model
    storage = Storage.at(model)
    found = storage.fs.get_file_info(pafs.FileSelector(storage.root, recursive=True, allow_not_found=True))
    files = sorted((info.path, info.size, info.mtime_ns) for info in found if info.type == pafs.FileType.File)
    if not files:
        raise InputError(f"{model}: there is no model folder")
    siblings = folder() / _hash(posixpath.dirname(storage.root))
    copy = siblings / _hash(json.dumps(files))
    siblings.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{copy}.lock"):
        if copy.is_dir():
            os.utime(copy)
        else:
            part = tempfile.mkdtemp(dir=siblings, prefix="part-")
            pafs.copy_files(storage.root, part, source_filesystem=storage.fs)
            os.rename(part, copy)
            os.utime(copy)
            _drop_others(siblings)
    return str(copy)


def fetch_for_engine() -> None:
    """A vLLM plugin (`vllm.general_plugins`), loaded before the engine's model: the copy of the model it will load."""
    if (model := os.environ.get(MODEL)) is not None:
        local(model)


@contextmanager
def written(storage: Storage, name: str) -> Iterator[str]:
    """A local folder (or the place of a file) to write to; on a remote storage it is copied there at the end."""
    if isinstance(storage.fs, pafs.LocalFileSystem):
        place = storage.path(name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        # A file is there whole or not at all; a folder is whole when its table is published.
        with writing(place) if posixpath.splitext(name)[1] else nullcontext(place) as part:
            yield part
        return
    with tempfile.TemporaryDirectory() as part:
        place = f"{part}/{posixpath.basename(name)}"
        yield place
        replace(place, pafs.LocalFileSystem(), storage.path(name), storage.fs)


def replace(source: str, source_fs: pafs.FileSystem, target: str, target_fs: pafs.FileSystem) -> None:
    """Copy a folder or file over what is at the target."""
    if source_fs.get_file_info(source).type == pafs.FileType.Directory:
        table_removal.remove(target_fs, target)
        target_fs.create_dir(target, recursive=True)
    pafs.copy_files(source, target, source_filesystem=source_fs, destination_filesystem=target_fs)


def _drop_others(siblings: Path) -> None:
    folders = sorted((entry for entry in siblings.iterdir() if entry.is_dir()), key=lambda entry: entry.stat().st_mtime)
    parts = [entry for entry in folders if entry.name.startswith("part-")]
    copies = [entry for entry in folders if entry not in parts]
    for old in [*parts, *copies[:-COPIES]]:
        if time.time() - old.stat().st_mtime > UNUSED_S:
            shutil.rmtree(old, ignore_errors=True)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
