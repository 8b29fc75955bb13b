"""Local files that are there whole or not at all, also after a crash of the machine.

    with writing("/runs/a/summary.json") as temporary:
        Path(temporary).write_bytes(content)

A file is written under a name of its own, reaches the disk, and then takes its place; so does the folder's entry. Two
writers of one file do not share a temporary name: the later one wins whole. An object store needs none of this: an
object appears when its upload is complete.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

WRITING = ".writing-"
"""Prefix of the names of files that are being written; readers and listings pass over them."""
UNTOUCHED_S = 60.0
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""What some mounted filesystems answer to fsync, above all of a folder."""


@contextmanager
def writing(path: str) -> Iterator[str]:
    """The temporary path to write to; takes the place of `path` at the end, and is removed after an error.

    Raises OSError with `path` as its filename.
    """
    folder = os.path.dirname(path)
    temporary = f"{folder}/{WRITING}{uuid.uuid4().hex}"
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise _named(error, path) from error
    finally:
        with suppress(OSError):
            os.unlink(temporary)
    sync(folder)


def write_bytes(fs: pafs.FileSystem, path: str, content: bytes) -> None:
    """Write a file of any filesystem, whole; its folder must be there."""
    if isinstance(fs, pafs.LocalFileSystem):
        with writing(path) as temporary, open(temporary, "wb") as stream:
            stream.write(content)
        return
    with fs.open_output_stream(path, compression=None) as stream:
        stream.write(content)


def write_parquet(fs: pafs.FileSystem, path: str, table: pa.Table) -> None:
    """Write a table of any filesystem as one Parquet file, whole; its folder must be there."""
    if isinstance(fs, pafs.LocalFileSystem):
        with writing(path) as temporary:
            pq.write_table(table, temporary)
        return
    # In memory first: a writer that meets an error closes its upload, which then is an object with fewer rows.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    with fs.open_output_stream(path, compression=None) as stream:
        stream.write(sink.getvalue())


def sync(path: str) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk, where the filesystem can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_SYNC:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sweep(fs: pafs.FileSystem, root: str, newest: str) -> int:
    """Remove what writers that were killed have left under a folder; returns how many files.

    What was touched later than UNTOUCHED_S before the file `newest` stays: its writer may be alive. Does nothing on an
    object store, which keeps no half uploads in sight.
    """
    if not isinstance(fs, pafs.LocalFileSystem):
        return 0
    removed, latest = 0, os.stat(newest).st_mtime - UNTOUCHED_S
    for folder, _, names in os.walk(root):
        for name in names:
            if name.startswith(WRITING):
                with suppress(OSError):
                    if os.stat(f"{folder}/{name}").st_mtime < latest:
                        os.unlink(f"{folder}/{name}")
                        removed += 1
    return removed


def _named(error: OSError, path: str) -> OSError:
    """The error with the file that was to be written; pyarrow's own and those of a write name none."""
    if error.errno is None or (error.filename and WRITING not in str(error.filename)):
        return error
    return OSError(error.errno, os.strerror(error.errno), path)
