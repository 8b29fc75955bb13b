"""Files under one folder or URI, local or s3 or gs, through pyarrow.fs.

storage = Storage.at("s3://bucket/runs/a")
storage.write_json("rounds/01/plan.json", {"alpha": 0.3})
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.fs as pafs

from tapir_ray.credentials import refuse_secret
from tapir_ray.errors import InputError


class Storage:
    """A folder. Paths inside are given as `rounds/01/plan.json`."""

    def __init__(self, fs: pafs.FileSystem, root: str, uri: str) -> None:
        self.fs = fs
        self.root = root.rstrip("/")
        self.uri = uri.rstrip("/")
        self._appending = threading.Lock()

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
        """Names of the entries of a folder, sorted; empty where there is none."""
        selector = pafs.FileSelector(self.path(name), allow_not_found=True)
        return sorted(info.base_name for info in self.fs.get_file_info(selector))

    def read_text(self, name: str) -> str:
        with self.fs.open_input_stream(self.path(name)) as stream:
            return stream.read().decode()

    def read_json(self, name: str) -> Any:
        return json.loads(self.read_text(name))

    def write_text(self, name: str, text: str) -> None:
        """Write a whole file; on a local disk readers see the old content or the new one, never a part."""
        path = self.path(name)
        self.fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
        local = isinstance(self.fs, pafs.LocalFileSystem)
        target = f"{path}.part" if local else path
        with self.fs.open_output_stream(target) as stream:
            stream.write(text.encode())
        if local:
            self.fs.move(target, path)

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def append(self, name: str, records: list[dict[str, Any]]) -> None:
        """Add lines of JSON to `events.jsonl` or `metrics.jsonl`: a few for each stage and step, never rows."""
        with self._appending:
            before = self.read_text(name) if self.exists(name) else ""
            self.write_text(name, before + "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records))


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
