"""Files under one folder or URI, on a local disk, s3 or gs, through pyarrow.fs.

    storage = Storage.at("s3://bucket/runs/a")
    storage.write_json("rounds/01/plan.json", {"alpha": 0.3})
    plan = storage.find_json("rounds/01/plan.json")         # None if it is missing, empty or torn

A file is written whole or not at all (see `atomic_files.py`).
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
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError

ABSENT = "is treated as absent"
"""Consequence of an empty or torn file, in the words of a log message."""


class Storage:
    """A folder on a filesystem. Names of its files are relative paths such as `rounds/01/plan.json`."""

    def __init__(self, fs: pafs.FileSystem, root: str, uri: str) -> None:
        self.fs = fs
        self.root = root.rstrip("/")
        self.uri = uri.rstrip("/")
        self.token = ""
        """Token of the attempt at a run that this process has claimed (see `run/attempts.py`); "" without one."""
        # Several threads of a driver append events.
        self._appending = threading.Lock()
        self._told: set[str] = set()

    @classmethod
    def at(cls, uri: str) -> Self:
        """The folder at a path or URI; it need not exist yet.

        Raises InputError for a URI without a known filesystem, and for the path of a file.
        """
        refuse_secret(uri)
        if not is_remote(uri):
            uri = str(Path(uri).absolute())
        try:
            fs, root = pafs.FileSystem.from_uri(uri)
            kind = fs.get_file_info(root).type
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{uri}: {one_line(error)}; give a folder, s3://… or gs://…") from error
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
        """Names of the entries of a folder, sorted, without temporary files; empty if the folder does not exist."""
        selector = pafs.FileSelector(self.path(name), allow_not_found=True)
        names = (info.base_name for info in self.fs.get_file_info(selector))
        return sorted(found for found in names if not found.startswith(atomic_files.WRITING))

    def read_text(self, name: str) -> str:
        with self.fs.open_input_stream(self.path(name)) as stream:
            return stream.read().decode()

    def read_json(self, name: str) -> Any:
        return json.loads(self.read_text(name))

    def find_json(self, name: str, torn: str = ABSENT) -> dict[str, Any] | None:
        """The JSON object in a file; None if the file is missing, empty or torn.

        An empty or torn file is logged once; `torn` is the end of the log message, which names the consequence.
        """
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
        """Logs once for each file that it is empty or torn, as after a crash of its machine or on a full disk."""
        if name not in self._told:
            self._told.add(name)
            logging.getLogger(__name__).warning("%s is empty or torn and %s", self.uri_of(name), consequence)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Writes a whole file; readers see the old content or the new one, never a part."""
        path = self.path(name)
        self.fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
        atomic_files.write_bytes(self.fs, path, content)

    def write_text(self, name: str, text: str) -> None:
        """Writes a whole file; readers see the old content or the new one, never a part."""
        self.write_bytes(name, text.encode())

    def create_json(self, name: str, value: Any) -> bool | None:
        """Writes a file that must not exist yet: True if this call wrote it, False if another writer did.

        None if the storage has no conditional writes. The file may then be missing, or hold this content or another's.
        """
        return conditional_writes.create(self.fs, self.path(name), self.uri, _json(value).encode())

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, _json(value))

    def append(self, name: str, records: list[dict[str, Any]]) -> None:
        """Appends lines of JSON to a small log such as `events.jsonl`: a few for each stage and step, never rows."""
        # Object stores cannot append, so the whole file is written again.
        with self._appending:
            before = self.read_text(name) if self.exists(name) else ""
            if before and not before.endswith("\n"):
                before += "\n"  # so that a line cut short by a crash does not spoil the next one
            self.write_text(name, before + "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def is_remote(place: str) -> bool:
    """Returns whether the name of a file, folder or model is a URI and not a local path."""
    return "://" in place


def uri_in(folder: str, name: str) -> str:
    """The URI or path of a name in a folder.

    `uri_in("s3://b/run?region=eu", "a.json")` is `s3://b/run/a.json?region=eu`.
    """
    place, mark, options = folder.partition("?") if is_remote(folder) else (folder, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def sibling_uri(folder: str, suffix: str) -> str:
    """The URI or path of a folder with a suffix appended to its name."""
    place, mark, options = folder.partition("?") if is_remote(folder) else (folder, "", "")
    return f"{place.rstrip('/')}{suffix}{mark}{options}"


def now() -> str:
    """The current time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
