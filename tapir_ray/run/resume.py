"""Resumes a table that an earlier attempt began: finished rows are kept, failed rows are asked again.

    count, keys = resume_table(folder, fs, ("instruction_id",))             # finished rows of earlier attempts
    rows = without(rows, keys, ("instruction_id",), transform_cpus)         # the rows still to do
    unpublish(folder, fs, manifest.files, ("instruction_id",), MANIFEST)    # makes a finished table unfinished

Folders and files are those of `blocks.py`. A block without a footer is deleted with a warning, and its rows are made
again. The rows of a table that has lost its manifest are kept.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data

from tapir_ray.data.schemas import FAILED
from tapir_ray.run import table_removal
from tapir_ray.run.blocks import (
    BLOCK,
    FILE,
    UNFINISHED,
    Key,
    first_of_each,
    is_torn,
    keys_of,
    name_of,
    names_of,
    write_whole,
)


def resume_table(folder: str, fs: pafs.FileSystem, key: Key, transform_cpus: float = 0.1) -> tuple[int, ray.ObjectRef]:
    """Returns (number of finished rows of earlier attempts, reference to their sorted keys in Ray's object store).

    Deletes failed rows, which are to be asked again, and the second of two equal rows, which a lost engine can cause.
    """
    (found,) = resume_tables([folder], fs, key, transform_cpus)
    return found


def resume_tables(
    folders: Sequence[str], fs: pafs.FileSystem, key: Key, transform_cpus: float = 0.1
) -> list[tuple[int, ray.ObjectRef]]:
    """Resumes several tables at once, as `resume_table` does one."""
    # Three results, so that the keys stay in the object store and only their number comes to the driver.
    task: Any = ray.remote(num_cpus=transform_cpus)(_resume_and_tell).options(num_returns=3)
    found = [task.remote(folder, fs, key) for folder in folders]
    for folder, (_, _, torn) in zip(folders, found, strict=True):
        for name in ray.get(torn):
            logging.getLogger(__name__).warning("%s/%s was empty or torn: its rows are made again", folder, name)
    return [(ray.get(count), keys) for count, keys, _ in found]


def without(rows: ray.data.Dataset, keys: ray.ObjectRef, key: Key, transform_cpus: float) -> ray.data.Dataset:
    """Returns the rows whose key is not in `keys`: a lazy dataset."""
    return rows.map_batches(
        # In a list, as Ray replaces a bare reference by its value: the keys would be copied into the function.
        functools.partial(_without, keys=[keys], key=key),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=transform_cpus,
    )


def unpublish(
    folder: str, fs: pafs.FileSystem, files: Sequence[str], key: Key, manifest: str, transform_cpus: float = 0.1
) -> None:
    """Turns a finished table into an unfinished one without its failed rows. A crash leaves one of the two."""
    ray.get(ray.remote(num_cpus=transform_cpus)(_unpublish).remote(folder, fs, list(files), key, manifest))


def among(values: Any, keys: pa.Array) -> pa.Array:
    """Returns for each of the strings whether it is in `keys`, which are sorted and not empty.

    among(["a", "x"], ["a", "b"])  # [True, False]
    """
    # By binary search: `pc.is_in` would build a hash table of all keys for each block.
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    at = pc.min_element_wise(pc.search_sorted(keys, values), pa.scalar(len(keys) - 1, pa.uint64()))
    return pc.equal(keys.take(at), values)


def _resume_and_tell(folder: str, fs: pafs.FileSystem, key: Key) -> tuple[int, pa.Array, list[str]]:
    """Returns the result of `_resume` and the names of torn files."""
    torn: list[str] = []
    return (*_resume(folder, fs, key, torn), torn)


def _resume(folder: str, fs: pafs.FileSystem, key: Key, torn: list[str] | None = None) -> tuple[int, pa.Array]:
    torn = [] if torn is None else torn
    table_removal.finish(fs, folder)
    if not names_of(folder, fs, BLOCK):
        _take_back(folder, fs, key, torn)
    for prefix in (UNFINISHED, FILE):
        for name in names_of(folder, fs, prefix):
            fs.delete_file(f"{folder}/{name}")
    names = names_of(folder, fs, BLOCK)
    keys_in = functools.partial(_finished, folder=folder, fs=fs, key=key, torn=torn)
    with ThreadPoolExecutor(table_removal.FILES_AT_ONCE) as pool:
        found = list(pool.map(functools.partial(keys_in, others=frozenset(names)), names))
    # Blocks that had to wait for another one (None) are done now, one after the other.
    finished: list[Any] = [keys_in(name) if keys is None else keys for name, keys in zip(names, found, strict=True)]
    keys = pc.unique(pa.concat_arrays(finished)) if finished else pa.array([], pa.string())
    if len(keys) < sum(map(len, finished)):
        _drop_doubles(folder, fs, key)
    return len(keys), keys.take(pc.sort_indices(keys))


def _take_back(folder: str, fs: pafs.FileSystem, key: Key, torn: list[str]) -> None:
    """Makes blocks from the files of a finished table that has lost its manifest: its own blocks were deleted."""
    for name in names_of(folder, fs, FILE):
        if is_torn(f"{folder}/{name}", fs):
            torn.append(name)
            continue
        table = pq.read_table(f"{folder}/{name}", filesystem=fs)
        if len(table):
            write_whole(table, f"{BLOCK}{name_of(table, key)}.parquet", folder, fs)


def _finished(
    name: str, folder: str, fs: pafs.FileSystem, key: Key, torn: list[str], others: Collection[str] = ()
) -> pa.Array | None:
    """Returns the keys of a block's finished rows; deletes its failed rows. Deletes a torn block, adds it to `torn`.

    Returns None and does nothing if the remaining rows would get the name of another block in `others`, because
    another thread may be deleting that one.
    """
    path = f"{folder}/{name}"
    try:
        opened = pq.ParquetFile(path, filesystem=fs)
    except (pa.ArrowInvalid, OSError):
        if not is_torn(path, fs):
            raise
        torn.append(name)
        fs.delete_file(path)
        return pa.array([], pa.string())
    with opened as file:
        status = ["status"] if "status" in file.schema_arrow.names else []
        # The whole block is read only if it has failed rows.
        block = file.read(columns=[*key, *status])
        if status and pc.any(pc.equal(block["status"], FAILED)).as_py():
            whole = file.read()
            block = whole.filter(pc.not_equal(whole["status"], FAILED))
            left = f"{BLOCK}{name_of(block, key)}.parquet"
            if left in others:
                return None
            # Written before the old block is deleted: a crash in between leaves rows twice, but loses none.
            if len(block):
                write_whole(block, left, folder, fs)
            fs.delete_file(path)
    return keys_of(block, key).combine_chunks()


def _drop_doubles(folder: str, fs: pafs.FileSystem, key: Key) -> None:
    seen: set[str] = set()
    made: set[str] = set()
    for name in names_of(folder, fs, BLOCK):
        if name in made:
            continue  # a killed attempt had written it too, without deleting the block that it replaces
        table = pq.read_table(f"{folder}/{name}", filesystem=fs)
        once = first_of_each(table, key, seen)
        if len(once) < len(table):
            if len(once):
                made.add(f"{BLOCK}{name_of(once, key)}.parquet")
                write_whole(once, f"{BLOCK}{name_of(once, key)}.parquet", folder, fs)
            fs.delete_file(f"{folder}/{name}")


def _unpublish(folder: str, fs: pafs.FileSystem, files: list[str], key: Key, manifest: str) -> None:
    kept: list[str] = []
    for file in files:
        table = pq.read_table(f"{folder}/{file}", filesystem=fs)
        table = table.filter(pc.not_equal(table["status"], FAILED))
        if len(table):
            kept.append(f"{BLOCK}{name_of(table, key)}.parquet")
            write_whole(table, kept[-1], folder, fs)
    # Blocks first, then the manifest, then the old files: a crash leaves the finished table or a whole unfinished one.
    fs.delete_file(f"{folder}/{manifest}")
    for file in files:
        if file not in kept:
            fs.delete_file(f"{folder}/{file}")


def _without(block: pa.Table, keys: list[ray.ObjectRef], key: Key) -> pa.Table:
    return block.filter(pc.invert(among(keys_of(block, key), ray.get(keys[0]))))
