"""Model folders on storage: each machine copies a model to its own disk once, before it loads it.

    folder = local("s3://bucket/runs/a/checkpoints/01")        # a HF name or a folder of this machine stays as it is
    with written(run, "checkpoints/base") as folder:
        model.save_pretrained(folder)

The path of a copy is the same on every machine: a hash of the model's URI and of the names, sizes and times of its
files. So the driver can name the path to a worker, and a model that was replaced gets a new copy.
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
"""Environment variable with the folder for copies. Without it they are in the user's private temporary folder."""
MODEL = "TAPIR_MODEL"
"""Environment variable with the URI of a model that an engine's process has to copy before it loads it."""
COPIES, UNUSED_S = 2, 3600.0
"""Copies that stay for the models of one folder (the checkpoints of a run), besides those used in the last hour."""


def folder() -> Path:
    """Returns the folder of this machine for copies; creates it if it is missing.

    Raises InputError for a folder that other users can write to: a replaced model changes the results, and with
    `trust_remote_code` it runs code.
    """
    if named := os.environ.get(FOLDER):
        return trusted(Path(named).absolute(), FOLDER)
    place = private_folder() / "models"
    place.mkdir(PRIVATE, exist_ok=True)
    return place


def local(model: str) -> str:
    """Returns the local folder for a model. A URI is copied first if needed; a HF name or local path is returned as is.

    Raises InputError for a URI without files.
    """
    if not is_remote(model):
        return model
    storage = Storage.at(model)
    found = storage.fs.get_file_info(pafs.FileSelector(storage.root, recursive=True, allow_not_found=True))
    files = sorted((info.path, info.size, info.mtime_ns) for info in found if info.type == pafs.FileType.File)
    if not files:
        raise InputError(f"{model}: there is no model folder; correct the URI")
    siblings = folder() / _hash(posixpath.dirname(storage.root))
    copy = siblings / _hash(json.dumps(files))
    siblings.mkdir(parents=True, exist_ok=True)
    # Several workers of a machine load the same model at once; one copies, the others wait.
    with FileLock(f"{copy}.lock"):
        if copy.is_dir():
            os.utime(copy)  # the time of the last use, for `_drop_others`
        else:
            # Copied next to its place and renamed, so that a killed process leaves no half of a model.
            part = tempfile.mkdtemp(dir=siblings, prefix="part-")
            pafs.copy_files(storage.root, part, source_filesystem=storage.fs)
            os.rename(part, copy)
            os.utime(copy)
            _drop_others(siblings)
    return str(copy)


def fetch_for_engine() -> None:
    """Copies the model of an engine: a vLLM plugin (`vllm.general_plugins`), which vLLM loads before the model."""
    if (model := os.environ.get(MODEL)) is not None:
        local(model)


@contextmanager
def written(storage: Storage, name: str) -> Iterator[str]:
    """Context manager with a local path to write a folder or file to; copied on exit if the storage is remote."""
    if isinstance(storage.fs, pafs.LocalFileSystem):
        place = storage.path(name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        # A file must be written completely or not at all. A folder counts only once its table is published.
        with writing(place) if posixpath.splitext(name)[1] else nullcontext(place) as part:
            yield part
        return
    with tempfile.TemporaryDirectory() as part:
        place = f"{part}/{posixpath.basename(name)}"
        yield place
        replace(place, pafs.LocalFileSystem(), storage.path(name), storage.fs)


def replace(source: str, source_fs: pafs.FileSystem, target: str, target_fs: pafs.FileSystem) -> None:
    """Copies a folder or file and replaces the target."""
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
