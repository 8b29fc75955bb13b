"""Files of an export: written into a temporary folder first, so that its target has all of them or none.

with new_folder("s3://bucket/exports/mine", overwrite=False) as folder:
    with writer(FORMATS["parquet"], folder) as write:
        write(rows)
    (folder / CARD).write_text(card)
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tapir_ray.data.atomic_files import WRITING, sync
from tapir_ray.data.storage import Storage
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.report.export.formats import Format
from tapir_ray.steps.dataset_card import TAG

CARD = "README.md"
"""Card of an export. On an object store it is written last: a folder without it is not complete."""
DATA = "data"
FILE_BYTES = 500_000_000
"""Size from which the rows go on in another file; the hub advises about 500 MB."""

Write = Callable[[list[dict[str, Any]]], None]


def refuse_target(out: str, overwrite: bool) -> None:
    """Raises InputError if a folder or URI is taken: without `overwrite`, or by something else than an export."""
    storage = Storage.at(out)
    there = storage.children("")
    if not there:
        return
    if not overwrite:
        raise InputError(f"{out} is not empty: give --overwrite to replace an export, or another --out")
    # Whatever else is in a folder, this command must not delete it.
    if CARD not in there or not _is_card(storage.read_text(CARD)):
        raise InputError(f"{out} is no export (its {CARD} has no tag {TAG}): remove it yourself, or give another --out")


def _is_card(text: str) -> bool:
    """Returns whether a text is a card of this project, by the tag in its front matter."""
    begin, mark, rest = text.partition("---\n")
    front = rest.partition("\n---")[0]
    return begin == "" and mark != "" and f"\n- {TAG}" in f"\n{front}"


@contextmanager
def new_folder(out: str, overwrite: bool) -> Iterator[Path]:
    """Yields a local folder that becomes `out`, a path or URI, at the end; after an error `out` is as before.

    Raises InputError as `refuse_target` does, and if the storage cannot be written to.
    """
    refuse_target(out, overwrite)
    storage = Storage.at(out)
    if not isinstance(storage.fs, pafs.LocalFileSystem):
        with tempfile.TemporaryDirectory(prefix="tapir-export-") as temporary:
            yield Path(temporary)
            _upload(Path(temporary), storage)
        return
    target = Path(storage.root)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = target.parent / f"{WRITING}{uuid.uuid4().hex}"
        folder.mkdir()
    except OSError as error:
        raise InputError(f"{out} cannot be written to: {one_line(error)}; give another --out") from error
    try:
        yield folder
        _replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, target: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            sync(f"{place}/{name}")
    old = folder.with_name(f"{folder.name}-old")
    replaces = target.exists()
    if replaces:
        os.replace(target, old)
    try:
        os.replace(folder, target)
    except OSError:
        if replaces:
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    sync(str(target.parent))


def _upload(folder: Path, storage: Storage) -> None:
    """Copies a local folder to an object store, its card last."""
    if storage.exists(CARD):
        storage.fs.delete_file(storage.path(CARD))
    storage.fs.delete_dir_contents(storage.root, missing_dir_ok=True)
    card = (folder / CARD).read_bytes()
    (folder / CARD).unlink()
    pafs.copy_files(str(folder), storage.root, destination_filesystem=storage.fs)
    storage.write_bytes(CARD, card)


@contextmanager
def writer(format: Format, folder: Path) -> Iterator[Write]:
    """Yields a function that writes a list of objects to the files of a format, and begins another at FILE_BYTES."""
    if format.schema is None:
        lines = _Files(folder / DATA, format.suffix, _Lines)
        with lines.closed():
            yield lines.write
        return
    schema = format.schema
    if format.suffix:
        tables = _Files(folder / DATA, format.suffix, lambda path: _Table(path, schema))
        with tables.closed():
            yield tables.write
        return
    # HF datasets reads the Parquet files from disk and writes its own from there.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=WRITING) as parts:
        tables = _Files(Path(parts) / DATA, ".parquet", lambda path: _Table(path, schema))
        with tables.closed():
            yield tables.write
        _save_dataset(sorted(str(path) for path in (Path(parts) / DATA).iterdir()), f"{parts}/cache", folder)


def _save_dataset(files: list[str], cache: str, folder: Path) -> None:
    import datasets

    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        made = datasets.Dataset.from_parquet(files, cache_dir=cache)
        made.save_to_disk(str(folder), max_shard_size=FILE_BYTES)
    finally:
        if not shown:
            datasets.enable_progress_bars()


class _Lines:
    """A file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self.bytes = 0

    def write(self, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.bytes += len(text)
        self._file.write(text)

    def close(self) -> None:
        self._file.close()


class _Table:
    """A Parquet file."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self.bytes = schema, 0
        self._file = pq.ParquetWriter(path, schema)

    def write(self, rows: list[dict[str, Any]]) -> None:
        table = pa.Table.from_pylist(rows, schema=self._schema)
        self.bytes += table.nbytes
        self._file.write_table(table)

    def close(self) -> None:
        self._file.close()


class _Files:
    """Numbered files in a folder: `train-00000.jsonl`, `train-00001.jsonl`, …"""

    def __init__(self, folder: Path, suffix: str, opened: Callable[[Path], Any]) -> None:
        self._folder, self._suffix, self._open = folder, suffix, opened
        self._number = 0
        self._file: Any = None

    def write(self, rows: list[dict[str, Any]]) -> None:
        if self._file is not None and self._file.bytes >= FILE_BYTES:
            self._file.close()
            self._file = None
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._open(self._folder / f"train-{self._number:05d}{self._suffix}")
            self._number += 1
        self._file.write(rows)

    @contextmanager
    def closed(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._file is not None:
                self._file.close()
