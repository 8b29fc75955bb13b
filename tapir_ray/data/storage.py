"""Files under one folder or URI, local or s3 or gs, through pyarrow.fs.

storage = Storage.at("s3://bucket/runs/a")
storage.write_json("rounds/01/plan.json", {"alpha": 0.3})
plan = storage.find_json("rounds/01/plan.json")         # None if it is not there, empty or torn

A file appears whole or not at all (see `atomic.py`).
"""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.fs as pafs

from tapir_ray.data import atomic_files, conditional_writes
from tapir_ray.data.secret_uris import refuse_secret
from tapir_ray.errors import InputError

ABSENT = "is treated as absent"
"""What becomes of an empty or torn file, as a message says it."""


class Storage:
    """A folder. Paths inside are given as `rounds/01/plan.json`."""

    def __init__(self, fs: pafs.FileSystem, root: str, uri: str) -> None:
        self.fs = fs
        self.root = root.rstrip("/")
        self.uri = uri.rstrip("/")
        self.token = ""
        """Of the attempt at a run that this process has claimed (see `ownership.py`); "" without one."""
        self._appending = threading.Lock()
        self._told: set[str] = set()

    @classmethod
    def at(cls, uri: str) -> Self:
        """The folder at a path or URI, whether or not it exists yet.

        Raises InputError for a URI that names no filesystem, and for a file.
        """
        refuse_secret(uri)
        if not is_remote(uri):
            uri = str(Path(uri).absolute())
        try:
            fs, root = pafs.FileSystem.from_uri(uri)
            kind = fs.get_file_info(root).type
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{uri}: {' '.join(str(error).split())}; give a folder, s3://… or gs://…") from error
        if kind == pafs.FileType.File:
            raise InputError(f"{uri} is a file; give a folder")
        return cls(fs, root, uri)

    def path(self, name: str) -> str:
        """The path of a file or table inside `fs`."""
        return f"{self.root}/{name}" if name else self.root

    def uri_of(self, name: str) -> str:
        """The URI (or local path) of a file or folder, for another process."""
        return uri_in(self.uri, name)

    def exists(self, name: str) -> bool:
        return self.fs.get_file_info(self.path(name)).type != pafs.FileType.NotFound

    def children(self, name: str) -> list[str]:
        """Names of the entries of a folder, sorted; empty where there is none. What is being written is left out."""
        selector = pafs.FileSelector(self.path(name), allow_not_found=True)
        names = (info.base_name for info in self.fs.get_file_info(selector))
        return sorted(found for found in names if not found.startswith(atomic_files.WRITING))

    def read_text(self, name: str) -> str:
        with self.fs.open_input_stream(self.path(name)) as stream:
            return stream.read().decode()

    def read_json(self, name: str) -> Any:
        return json.loads(self.read_text(name))

    def find_json(self, name: str, torn: str = ABSENT) -> dict[str, Any] | None:
        """The JSON object in a file; None if it is not there, empty or torn. The latter is logged, ending in `torn`."""
        try:
            found = json.loads(self.read_text(name))
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            self.tell_torn(name, torn)
            return None
        return found

    def tell_torn(self, name: str, consequence: str = ABSENT) -> None:
        """Log, once for each file, that it is empty or torn, as after a crash of its machine or a full disk."""
        if name not in self._told:
            self._told.add(name)
            logging.getLogger(__name__).warning("%s is empty or torn and %s", self.uri_of(name), consequence)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a whole file; readers see the old content or the new one, never a part."""
        path = self.path(name)
        self.fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
        atomic_files.write_bytes(self.fs, path, content)

    def write_text(self, name: str, text: str) -> None:
        """Write a whole file; readers see the old content or the new one, never a part."""
        self.write_bytes(name, text.encode())

    def create_json(self, name: str, value: Any) -> bool | None:
        """Write a file that must not be there yet: False if another writer has made it.

        None if the storage has no conditional writes: then nothing may be there, or this content, or another's.
        """
        return conditional_writes.create(self.fs, self.path(name), self.uri, _json(value).encode())

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, _json(value))

    def append(self, name: str, records: list[dict[str, Any]]) -> None:
        """Add lines of JSON to `events.jsonl` or `metrics.jsonl`: a few for each stage and step, never rows."""
        with self._appending:
            before = self.read_text(name) if self.exists(name) else ""
            if before and not before.endswith("\n"):
                before += "\n"  # a line that was cut short must not spoil the next
            self.write_text(name, before + "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def is_remote(place: str) -> bool:
    """Whether a file, folder or model is named by a URI, so that no local path is meant."""
    return "://" in place


def uri_in(folder: str, name: str) -> str:
    """The URI or path of a name in a folder; options of the URI (`?endpoint_override=…`) stay at its end."""
    place, mark, options = folder.partition("?") if is_remote(folder) else (folder, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def uri_beside(folder: str, suffix: str) -> str:
    """The URI or path of a folder with a suffix to its name."""
    place, mark, options = folder.partition("?") if is_remote(folder) else (folder, "", "")
    return f"{place.rstrip('/')}{suffix}{mark}{options}"


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
