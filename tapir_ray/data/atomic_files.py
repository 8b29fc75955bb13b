"""Writes local files atomically: after a crash of the machine a file is complete or absent.

    with writing("/runs/a/summary.json") as temporary:
        Path(temporary).write_bytes(content)

A file is written under a temporary name, synced to disk and renamed; then the folder is synced. Each writer has its own
temporary name, so with two writers of one file the later one wins whole. An object store needs none of this: an object
appears when its upload is complete.
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
"""Prefix of temporary names; readers and listings skip them."""
UNTOUCHED_S = 60.0
"""Seconds without a write after which a temporary file counts as abandoned."""
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""Error codes of filesystems without fsync, mostly network mounts asked to sync a folder."""


@contextmanager
def writing(path: str) -> Iterator[str]:
    """Yields a temporary path, which is renamed to `path` at the end and removed after an error.

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
    """Writes a whole file on any filesystem. Its folder must exist."""
    if isinstance(fs, pafs.LocalFileSystem):
        with writing(path) as temporary, open(temporary, "wb") as stream:
            stream.write(content)
        return
    with fs.open_output_stream(path, compression=None) as stream:
        stream.write(content)


def write_parquet(fs: pafs.FileSystem, path: str, table: pa.Table) -> None:
    """Writes a table as one whole Parquet file on any filesystem. Its folder must exist."""
    if isinstance(fs, pafs.LocalFileSystem):
        with writing(path) as temporary:
            pq.write_table(table, temporary)
        return
    # In memory first: a Parquet writer that fails closes its stream, which would publish an object with fewer rows.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    with fs.open_output_stream(path, compression=None) as stream:
        stream.write(sink.getvalue())


def sync(path: str) -> None:
    """Waits until a file's content, or a folder's entries, are on disk. Does nothing on a filesystem without fsync."""
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
    """Removes the temporary files of killed writers under a folder; returns their number.

    A file modified less than UNTOUCHED_S before the file `newest`, or after it, stays: its writer may be alive. Does
    nothing on an object store, which does not list unfinished uploads.
    """
    if not isinstance(fs, pafs.LocalFileSystem):
        return 0
    # Compared with a file of the same filesystem, not with this machine's clock: that of a file server may differ.
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
    """The error with `path` as its filename, unless it already names another file."""
    if error.errno is None or (error.filename and WRITING not in str(error.filename)):
        return error
    return OSError(error.errno, os.strerror(error.errno), path)
