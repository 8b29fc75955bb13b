"""Finding and reading instruction data: the rows of a file, folder or hub dataset, one after another.

    for file in list_files("data/", "seed_data.path"):
        for place, row in read_raw(file): ...

Stored as JSON, JSONL or Parquet, here or on s3 or gs, as a saved HF dataset folder, or under a HF hub id.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from tapir_ray.credentials import refuse_secret
from tapir_ray.errors import InputError
from tapir_ray.storage import is_remote, uri_in

SUFFIXES = (".jsonl", ".json", ".parquet")
FILE_SUFFIXES = (*SUFFIXES, ".csv", ".tsv", ".txt", ".gz", ".zst", ".zip", ".arrow", ".yaml")
"""A path that ends so is a file, never a hub id."""
SAVED = ("dataset_info.json", "dataset_dict.json")
"""One of them is in every folder that `save_to_disk` of HF datasets wrote."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Unreadable(InputError):
    """A file that cannot be read to its end; the text says why."""

    reason = "unreadable"


def list_files(path: str, key: str) -> list[str]:
    """The data files at a path, sorted: the file itself, or those of a folder; a HF folder or hub id as it is.

    Of a folder, names that begin with `_` or `.` are left out. Raises InputError, which names `key` and the path, where
    there is nothing to read.
    """
    if is_remote(path):
        refuse_secret(path)
        return _list_remote(path, key)
    location = Path(path)
    if location.is_file():
        if location.suffix not in SUFFIXES:
            raise InputError(f"{key} {path}: the file must end in .json, .jsonl or .parquet")
        return [path]
    if location.is_dir():
        if any((location / name).exists() for name in SAVED):
            return [path]
        entries = (entry for entry in location.iterdir() if not entry.name.startswith(("_", ".")))
        found = sorted(str(entry) for entry in entries if entry.suffix in SUFFIXES)
        if not found:
            raise InputError(f"{key} {path}: the folder has no .json, .jsonl or .parquet file")
        return found
    if HUB_ID.fullmatch(path) and location.suffix not in FILE_SUFFIXES and not location.parent.is_dir():
        return [path]
    raise InputError(f"{key} {path}: there is no such file or folder, and it is not a hub id (owner/name)")


def _list_remote(uri: str, key: str) -> list[str]:
    try:
        fs, path = pafs.FileSystem.from_uri(uri)
        info = fs.get_file_info(path.rstrip("/"))
        entries = fs.get_file_info(pafs.FileSelector(path)) if info.type == pafs.FileType.Directory else [info]
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{key} {uri}: cannot be read ({' '.join(str(error).split())})") from error
    files = [entry for entry in entries if entry.type == pafs.FileType.File]
    if any(entry.base_name in SAVED for entry in files) and info.type == pafs.FileType.Directory:
        raise InputError(
            f"{key} {uri}: a dataset saved by `save_to_disk` is read from a local folder alone; write it there with "
            "`to_parquet`, or copy it to each machine"
        )
    found = [entry for entry in files if entry.base_name.endswith(SUFFIXES) and entry.base_name[0] not in "_."]
    if not found:
        raise InputError(f"{key} {uri}: there is no .json, .jsonl or .parquet file")
    if info.type == pafs.FileType.File:
        return [uri]
    return sorted(uri_in(uri, quote(entry.base_name)) for entry in found)


def _open(path: str) -> BinaryIO:
    """A local file or URI, to read."""
    if not is_remote(path):
        return open(path, "rb")
    fs, place = pafs.FileSystem.from_uri(path)
    stream: Any = fs.open_input_file(place)
    return io.BufferedReader(stream)


def read_raw(path: str, revision: str | None = None) -> Iterator[tuple[str, Any]]:
    """The rows of one source with their place (`file:line`).

    What cannot be read comes as an exception object in a row's place: a line that is not JSON, and at the end, as
    Unreadable, a file or hub dataset that is broken or not there.
    """
    place = path.partition("?")[0] if is_remote(path) else path
    name, suffix = Path(unquote(place) if is_remote(path) else place).name, Path(place).suffix
    try:
        if suffix == ".jsonl":
            yield from _read_lines(path, name)
        elif suffix == ".json":
            yield from _read_list(path, name)
        elif suffix == ".parquet":
            yield from _read_parquet(path, name)
        else:
            yield from _read_dataset(path, name, revision)
    except Exception as error:
        # Whatever a library finds wrong with a file is the user's to mend, and a row says it without a traceback.
        yield name, Unreadable(f"cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]})")


def _read_lines(path: str, name: str) -> Iterator[tuple[str, Any]]:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{name}:{number}", _loads(line)


def _read_list(path: str, name: str) -> Iterator[tuple[str, Any]]:
    with _open(path) as file:
        content = _loads(file.read())
    if isinstance(content, Exception):
        line = getattr(content, "lineno", 1)
        yield f"{name}:{line}", Unreadable(f"the file is cut short or not JSON ({content})")
    elif isinstance(content, list):
        for number, row in enumerate(content, start=1):
            yield f"{name}:row {number}", row
    else:
        yield name, Unreadable("a .json file must hold a list of rows (JSON lines end in .jsonl)")


def _read_parquet(path: str, name: str) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    number = 0
    with _open(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}:row {number}", row


def _read_dataset(path: str, name: str, revision: str | None) -> Iterator[tuple[str, Any]]:
    import datasets

    dataset = datasets.load_from_disk(path) if Path(path).is_dir() else datasets.load_dataset(path, revision=revision)
    if isinstance(dataset, datasets.DatasetDict):
        dataset = dataset["train"] if "train" in dataset else next(iter(dataset.values()))
    for number, row in enumerate(dataset, start=1):
        yield f"{name}:row {number}", row


def _loads(data: bytes) -> Any:
    """The JSON value of UTF-8 text, or the error; half of a surrogate pair is no text and an error too."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
        if b"\\ud" in data.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return error
    return value
