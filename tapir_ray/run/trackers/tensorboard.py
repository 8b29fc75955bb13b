"""Tracker that writes TensorBoard's event files to `tensorboard/` in the run folder, with the package tensorboardX.

    tensorboard --logdir runs/mine/tensorboard

Each attempt writes a file. On storage without appending, such as s3, the file of the attempt is written again every
UPLOAD_S seconds.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tapir_ray.data.storage import Storage, is_remote
from tapir_ray.run.trackers.base import RunInfo
from tapir_ray.run.trackers.curves import Curves, Point

FOLDER = "tensorboard"
FLUSH_S, UPLOAD_S = 5.0, 30.0
LENGTH, CHECKSUM = struct.Struct("<Q"), 4
"""A record is its length, a checksum, its content, and another checksum."""


class TensorBoard(Curves):
    """Curves in event files of the run folder."""

    name, package = "tensorboard", "tensorboardX"

    def open(self, run: RunInfo) -> Mapping[str, int]:
        from tensorboardX.record_writer import RecordWriter, register_writer_factory

        storage = Storage.at(run.uri)
        found: dict[str, int] = {}
        for name in storage.children(FOLDER):
            for tag, step in points_in(storage, f"{FOLDER}/{name}"):
                found[tag] = max(step, found.get(tag, 0))
        name = f"{FOLDER}/events.out.tfevents.{time.time():.0f}.tapir.{run.attempt:05d}"
        self._flush_s, self._flushed = FLUSH_S, time.monotonic()
        if is_remote(storage.uri):
            self._flush_s = UPLOAD_S
            register_writer_factory("tapir", _Uploads(storage))
            self._writer: Any = RecordWriter(f"tapir:{name}")
        else:
            path = Path(storage.uri) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(str(path))
        self._write_event(file_version="brain.Event:2")
        return found

    def write(self, points: Sequence[Point]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        for point in points:
            summary = Summary(value=[Summary.Value(tag=point.name, simple_value=point.value)])
            self._write_event(step=point.step, summary=summary)
        if time.monotonic() - self._flushed >= self._flush_s:
            self._flushed = time.monotonic()
            self._writer.flush()

    def close(self, status: str) -> None:
        self._writer.flush()
        self._writer.close()

    def _write_event(self, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())


def points_in(storage: Storage, name: str) -> Iterator[tuple[str, int]]:
    """Yields (name, step) of each point in an event file, without a record that a crash has cut short."""
    from tensorboardX.proto.event_pb2 import Event

    with storage.fs.open_input_stream(storage.path(name)) as stream:
        content = stream.read()
    at = 0
    while at + LENGTH.size <= len(content):
        (length,) = LENGTH.unpack_from(content, at)
        begin = at + LENGTH.size + CHECKSUM
        at = begin + length + CHECKSUM
        if at > len(content):
            return
        event = Event.FromString(content[begin : begin + length])
        for value in event.summary.value:
            yield value.tag, event.step


class _Uploads:
    """tensorboardX's opener of files that are written whole to the storage of a run."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def directory_check(self, path: str) -> None:
        """Does nothing: writing creates the folder."""

    def open(self, path: str) -> _Upload:
        return _Upload(self._storage, path.partition(":")[2])


class _Upload:
    """File in memory that `flush` writes to storage."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name, self._content = storage, name, bytearray()

    def write(self, content: bytes) -> None:
        self._content += content

    def flush(self) -> None:
        self._storage.write_bytes(self._name, bytes(self._content))

    def close(self) -> None:
        """Does nothing: the writer flushes before."""
