"""Reads instruction data: the rows of a file, saved dataset or hub id, one after another.

    for file in list_files("data/", "seed_data.path"):           # tapir_ray.data.files
        for place, row in read_raw(file): ...

Reads JSON and JSON lines (also compressed) and Parquet from a local disk, s3 or gs, and Hugging Face datasets.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from tapir_ray.data.file_names import COMPRESSED, INSIDE, LINES, LIST, PARQUET, chosen, kind_of
from tapir_ray.data.storage import is_remote
from tapir_ray.data.values import json_value, loads
from tapir_ray.errors import InputError

SIGNATURES = {
    b"\xff\xfe\0\0": "UTF-32 text: save it as UTF-8",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
    b"\x1f\x8b": "compressed by gzip: let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: let its name end in .zst",
    b"BZh": "compressed by bzip2: let its name end in .bz2",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"PAR1": "Parquet: let its name end in .parquet",
    b"ARROW1": "Arrow: write it with to_parquet or to_json",
    b"version https://git-lfs.github.com/": "a pointer that Git LFS has left: fetch the file with `git lfs pull`",
    b"<!doctype html": "a web page: download the data itself",
    b"<html": "a web page: download the data itself",
    b"{\0": "UTF-16 text: save it as UTF-8",
    b"[\0": "UTF-16 text: save it as UTF-8",
    b"\0{": "UTF-16 text: save it as UTF-8",
    b"\0[": "UTF-16 text: save it as UTF-8",
}
"""Kinds of files with a wrong name or encoding, by their first bytes, and the advice for each."""
LONGEST_SIGNATURE = 64
SHOWN = 6
"""Most keys of an object that an error lists."""


class Unreadable(InputError):
    """A file that cannot be read to its end; the text says why."""

    reason = "unreadable"


def _open(path: str) -> BinaryIO:
    """Opens a local file or URI for reading; decompresses by the suffix of its name."""
    place = path.partition("?")[0] if is_remote(path) else path
    codec = COMPRESSED.get(Path(place).suffix.lower())
    if not is_remote(path):
        if codec is None:
            return open(path, "rb")
        packed: Any = pa.OSFile(path)
    else:
        fs, inside = pafs.FileSystem.from_uri(path.replace(INSIDE, "/"))
        packed = fs.open_input_file(inside)
    stream: Any = packed if codec is None else pa.CompressedInputStream(packed, codec)
    return io.BufferedReader(stream)


def read_raw(path: str, revision: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yields (place, row) for each row of one source: `("a.jsonl:3", {…})`, with JSON values (see `values.json_value`).

    Errors are yielded in place of a row, not raised: the error of a line that is not JSON, and, as the last item, an
    Unreadable for a file or hub dataset that is broken or missing.
    """
    place = path.partition("?")[0] if is_remote(path) else path
    place = unquote(place) if is_remote(path) else place
    name = place.rpartition(INSIDE)[2] if INSIDE in place else Path(place).name
    kind = None if not is_remote(path) and Path(path).is_dir() else kind_of(name)
    try:
        if kind == LINES:
            yield from _read_lines(path, name)
        elif kind == LIST:
            yield from _read_list(path, name)
        elif kind == PARQUET:
            yield from _read_parquet(path, name)
        else:
            yield from _read_dataset(path, name, revision)
    except Exception as error:
        # Whatever a library finds wrong with a file, the user must fix it; a message is of more use than a traceback.
        if isinstance(error, Unreadable):
            yield name, error
        else:
            yield name, Unreadable(f"cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]})")


def _refuse_signature(head: bytes) -> None:
    """Raises Unreadable if the first bytes show that a file is not what its name says."""
    head = head[:LONGEST_SIGNATURE].lstrip()
    for signature, what in SIGNATURES.items():
        # Only a web page begins with letters of either case.
        if head.startswith(signature) or (signature[:1] == b"<" and head.lower().startswith(signature)):
            raise Unreadable(f"the file is {what}")


def _read_lines(path: str, name: str) -> Iterator[tuple[str, Any]]:
    is_first = True
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                if is_first:
                    _refuse_signature(line)
                is_first = False
                yield f"{name}:{number}", loads(line)


def _read_list(path: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yields the rows of a JSON list, or of JSON lines, which HF datasets and pandas also write to `.json` files."""
    with _open(path) as file:
        data = file.read()
    _refuse_signature(data)
    content = loads(data)
    if isinstance(content, Exception):
        # A file with `\r` alone has the line ends of old Macs; elsewhere `\r` may be part of a line.
        lines = data.splitlines(keepends=True) if b"\r" in data and b"\n" not in data else data.split(b"\n")
        first = next((line for line in lines if line.strip()), b"")
        if isinstance(loads(first), dict):
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{name}:{number}", loads(line)
        else:
            line_number = getattr(content, "lineno", 1)
            yield f"{name}:{line_number}", Unreadable(f"the file is cut short or not JSON ({content})")
    elif isinstance(content, list):
        for number, row in enumerate(content, start=1):
            yield f"{name}:row {number}", row
    else:
        what = (
            f"; it holds an object with the keys {', '.join(list(content)[:SHOWN])}"
            if isinstance(content, dict)
            else ""
        )
        yield name, Unreadable(f"a .json file must hold a list of rows, or rows one a line{what}")


def _read_parquet(path: str, name: str) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    number = 0
    with _open(path) as file:
        head = file.read(LONGEST_SIGNATURE)
        if not head.startswith(b"PAR1"):
            _refuse_signature(head)
        file.seek(0)
        for batch in pq.ParquetFile(file).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}:row {number}", json_value(row)


def _read_dataset(path: str, name: str, revision: str | None) -> Iterator[tuple[str, Any]]:
    import datasets

    if Path(path).is_dir():
        dataset = datasets.load_from_disk(path)
    else:
        dataset, name = _load_from_hub(path, revision)
    # `set_format`, saved with a dataset, would hide columns and change types.
    for number, row in enumerate(dataset.with_format(None), start=1):
        yield f"{name}:row {number}", json_value(row)


def _load_from_hub(path: str, revision: str | None) -> tuple[Any, str]:
    """(dataset, name for its rows' places) of `owner/name`, `owner/name#SPLIT` or `owner/name#CONFIG/SPLIT`.

    Raises Unreadable, which lists the choices, if a configuration or split must be named.
    """
    import datasets

    hub_id, _, wanted = path.partition("#")
    configuration, _, split = wanted.rpartition("/")
    try:
        found = datasets.load_dataset(hub_id, configuration or None, revision=revision)
    except ValueError as error:
        if "available configs" not in str(error):
            raise
        raise Unreadable(f"name a configuration with its split in seed_data.split: CONFIG/SPLIT ({error})") from error
    picked = chosen(found, split or None, "train")
    if len(picked) != 1:
        raise Unreadable(f"the dataset has the splits {', '.join(found)}: name one in seed_data.split")
    return found[picked[0]], f"{Path(hub_id).name}:{picked[0]}"


def hub_note(path: str, revision: str | None) -> str:
    """A sentence on the splits of a hub dataset that are not read; empty if all are. `path` is as `find` gives it."""
    import datasets

    hub_id, _, wanted = path.partition("#")
    configuration, _, split = wanted.rpartition("/")
    try:
        names = datasets.get_dataset_split_names(hub_id, configuration or None, revision=revision)
    except Exception as error:
        # The rows themselves may be in the local cache: without the hub only the list of splits is missing.
        return f"split {split or 'train'} is read; the hub did not list the other splits ({type(error).__name__})"
    others = [name for name in names if name not in chosen(names, split or None, "train")]
    return f"split {split or 'train'} is read, and left out: {', '.join(others)}" if others else ""
