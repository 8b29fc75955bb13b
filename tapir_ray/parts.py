"""A table while it is being written: a file for each block, so that what a killed stage had finished stays.

    keys = reopen(folder, fs, ("instruction_id",))           # what an earlier attempt finished
    rows = without(rows, keys, ("instruction_id",))          # is not asked again
    write = functools.partial(write_part, folder=folder, fs=fs, key=("instruction_id",))
    for block in written(rows, write, 64, stage_cpus): ...
    files = compact(folder, fs, ("instruction_id",))         # few files where there were many

A block is written whole or not at all, under a name that is a hash of its keys: written again by a task that Ray had to
repeat, it replaces its file. The files hold the rows themselves, so there is no second record that could disagree.
"""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data

from tapir_ray.records import BUDGET_USED_UP, FAILED, conform

PART, FILE, UNFINISHED = "part-", "rows-", "writing-"
"""Prefixes of a block's file, of a finished table's file, and of one that is not written to its end."""
ROWS_PER_FILE = 2_000
"""Rows of a finished file at least, where there are as many: every file costs later reads."""
FILES_AT_ONCE = 16
"""Files that a task has open together, where each costs it some round trips to the storage."""

Key = tuple[str, ...]
WRITTEN = pa.schema([("rows", pa.int64()), ("failed", pa.int64()), ("unasked", pa.int64()), ("error", pa.string())])
"""What became of a block; `error` is the reason of one of its failed rows."""


def written(
    rows: ray.data.Dataset, write: Callable[[pa.Table], pa.Table], rows_per_part: int | None, stage_cpus: float
) -> Iterator[dict[str, Any]]:
    """`write` (such as `write_part`) of the rows as they come, and its rows; at most `rows_per_part` wait for it."""
    summaries = rows.map_batches(write, batch_format="pyarrow", batch_size=rows_per_part, num_cpus=stage_cpus)
    blocks: Any = summaries.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0)
    for batch in blocks:
        yield from batch.to_pylist()


def write_part(block: pa.Table, folder: str, fs: pafs.FileSystem, key: Key) -> pa.Table:
    """Write a block's rows, but for those that were not asked, as one file; returns a WRITTEN row."""
    unasked, error = 0, None
    failed = pa.array([False] * len(block))
    if "status" in block.column_names:
        failed = pc.equal(block["status"], FAILED)
        asked = pc.invert(pc.and_(failed, pc.equal(pc.fill_null(block["reason"], ""), BUDGET_USED_UP)))
        unasked = len(block) - (pc.sum(asked).as_py() or 0)
        block, failed = block.filter(asked), failed.filter(asked)
        reasons = block["reason"].filter(failed)
        error = reasons[0].as_py() if len(reasons) else None
    if len(block):
        _write(block, f"{PART}{_name(block, key)}.parquet", folder, fs)
    return pa.Table.from_pylist(
        [{"rows": len(block), "failed": pc.sum(failed).as_py() or 0, "unasked": unasked, "error": error}], WRITTEN
    )


def reopen(folder: str, fs: pafs.FileSystem, key: Key, stage_cpus: float = 0.1) -> tuple[int, ray.ObjectRef]:
    """(rows, a reference to their keys, sorted) of what earlier attempts wrote, each once.

    Failed rows are dropped, to be asked again, and so is a row that is there twice, since an engine was lost after it.
    """
    (found,) = reopen_all([folder], fs, key, stage_cpus)
    return found


def reopen_all(
    folders: Sequence[str], fs: pafs.FileSystem, key: Key, stage_cpus: float = 0.1
) -> list[tuple[int, ray.ObjectRef]]:
    """`reopen` of several tables at the same time."""
    task: Any = ray.remote(num_cpus=stage_cpus)(_reopen).options(num_returns=2)
    found = [task.remote(folder, fs, key) for folder in folders]
    return [(ray.get(count), keys) for count, keys in found]


def found(folder: str, fs: pafs.FileSystem, stage_cpus: float) -> ray.data.Dataset:
    """The rows of all parts in the folder, which must hold some; lazy."""
    files = [f"{folder}/{name}" for name in _names(folder, fs, PART)]
    return ray.data.read_parquet(
        files, filesystem=fs, num_cpus=stage_cpus, partitioning=None, override_num_blocks=1 + len(files) // 32
    )


def without(rows: ray.data.Dataset, keys: ray.ObjectRef, key: Key, stage_cpus: float) -> ray.data.Dataset:
    """The rows whose key is not among `keys`; lazy."""
    return rows.map_batches(
        functools.partial(_without, keys=[keys], key=key),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=stage_cpus,
    )


def compact(folder: str, fs: pafs.FileSystem, key: Key, stage_cpus: float = 0.1) -> list[str]:
    """Names of the table's files: the parts, or where they are small the fewer ones made of them.

    A row that is in two parts, since an attempt that was overtaken still wrote, is kept once. The parts stay until
    `tidy`, so that a table can be compacted again.
    """
    parts = _names(folder, fs, PART)
    if not parts:
        return []
    counts = ray.get(ray.remote(num_cpus=stage_cpus)(_counts).remote(folder, fs, parts, key))
    if counts["unique"] == counts["rows"] and counts["rows"] >= ROWS_PER_FILE * (len(parts) - 1):
        return parts
    return ray.get(ray.remote(num_cpus=stage_cpus)(_rewrite).remote(folder, fs, parts, key))


def tidy(folder: str, fs: pafs.FileSystem, files: Sequence[str]) -> None:
    """Remove what is not of the finished table."""
    for prefix in (PART, FILE, UNFINISHED):
        for name in _names(folder, fs, prefix):
            if name not in files:
                fs.delete_file(f"{folder}/{name}")


def unpublish(
    folder: str, fs: pafs.FileSystem, files: Sequence[str], key: Key, manifest: str, stage_cpus: float = 0.1
) -> None:
    """A finished table becomes unfinished, without its failed rows; it is always the one or the other."""
    ray.get(ray.remote(num_cpus=stage_cpus)(_unpublish).remote(folder, fs, list(files), key, manifest))


def keys_of(table: pa.Table, key: Key) -> Any:
    """The rows' keys as strings; a missing value counts as empty."""
    columns = [pc.fill_null(table[name].cast(pa.string()), "") for name in key]
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "\x1f")


def among(values: Any, keys: pa.Array) -> pa.Array:
    """Whether each of the strings is among `keys`, which are sorted and not empty.

    By search: `pc.is_in` would make a table of all keys anew for each block.
    """
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    at = pc.min_element_wise(pc.search_sorted(keys, values), pa.scalar(len(keys) - 1, pa.uint64()))
    return pc.equal(keys.take(at), values)


def key_of(row: dict[str, Any], key: Key) -> str:
    """A row's key, as `keys_of` gives it."""
    return "\x1f".join("" if row[name] is None else str(row[name]) for name in key)


def files_of(folder: str, fs: pafs.FileSystem, key: Key) -> dict[str, str]:
    """The name of the part that holds a row, by the row's key; failed rows count as not there."""
    files: dict[str, str] = {}
    for name in _names(folder, fs, PART):
        table = pq.read_table(f"{folder}/{name}", columns=[*key, "status"], filesystem=fs)
        asked = table.filter(pc.not_equal(table["status"], FAILED))
        files |= dict.fromkeys(keys_of(asked, key).to_pylist(), name)
    return files


def _name(block: pa.Table, key: Key) -> str:
    digest = hashlib.blake2b(digest_size=12)
    if key:
        for value in sorted(keys_of(block, key).to_pylist()):
            digest.update(value.encode() + b"\x1e")
    else:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, block.schema) as stream:
            stream.write_table(block)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def _write(table: pa.Table, name: str, folder: str, fs: pafs.FileSystem) -> None:
    """A file is there whole or not at all: an object store does so by itself, on a disk it is renamed."""
    if not isinstance(fs, pafs.LocalFileSystem):
        pq.write_table(table, f"{folder}/{name}", filesystem=fs)
        return
    unfinished = f"{folder}/{UNFINISHED}{uuid.uuid4().hex}"
    pq.write_table(table, unfinished, filesystem=fs)
    fs.move(unfinished, f"{folder}/{name}")


def _names(folder: str, fs: pafs.FileSystem, prefix: str) -> list[str]:
    found = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    return sorted(info.base_name for info in found if info.base_name.startswith(prefix))


def _reopen(folder: str, fs: pafs.FileSystem, key: Key) -> tuple[int, pa.Array]:
    for prefix in (UNFINISHED, FILE):
        for name in _names(folder, fs, prefix):
            fs.delete_file(f"{folder}/{name}")
    names = _names(folder, fs, PART)
    keys_in = functools.partial(_finished, folder=folder, fs=fs, key=key)
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        found = list(pool.map(functools.partial(keys_in, others=frozenset(names)), names))
    finished: list[Any] = [keys_in(name) if keys is None else keys for name, keys in zip(names, found, strict=True)]
    keys = pc.unique(pa.concat_arrays(finished)) if finished else pa.array([], pa.string())
    if len(keys) < sum(map(len, finished)):
        _drop_doubles(folder, fs, key)
    return len(keys), keys.take(pc.sort_indices(keys))


def _finished(name: str, folder: str, fs: pafs.FileSystem, key: Key, others: Collection[str] = ()) -> pa.Array | None:
    """The keys of a part's rows without its failed ones, which are dropped.

    None, and nothing is done, where one of the `others`, which may be dropped at this moment, has the name of what
    would be left.
    """
    path = f"{folder}/{name}"
    with pq.ParquetFile(path, filesystem=fs) as file:
        status = ["status"] if "status" in file.schema_arrow.names else []
        part = file.read(columns=[*key, *status])
        if status and pc.any(pc.equal(part["status"], FAILED)).as_py():
            whole = file.read()
            part = whole.filter(pc.not_equal(whole["status"], FAILED))
            left = f"{PART}{_name(part, key)}.parquet"
            if left in others:
                return None
            if len(part):
                _write(part, left, folder, fs)
            fs.delete_file(path)
    return keys_of(part, key).combine_chunks()


def _drop_doubles(folder: str, fs: pafs.FileSystem, key: Key) -> None:
    seen: set[str] = set()
    made: set[str] = set()
    for name in _names(folder, fs, PART):
        if name in made:
            continue  # an attempt that was killed here had made it too, and not yet deleted what it replaces
        table = pq.read_table(f"{folder}/{name}", filesystem=fs)
        once = _first(table, key, seen)
        if len(once) < len(table):
            if len(once):
                made.add(f"{PART}{_name(once, key)}.parquet")
                _write(once, f"{PART}{_name(once, key)}.parquet", folder, fs)
            fs.delete_file(f"{folder}/{name}")


def _first(table: pa.Table, key: Key, seen: set[str]) -> pa.Table:
    """The rows whose key is not in `seen`, which gets them."""
    fresh = [value not in seen and not seen.add(value) for value in keys_of(table, key).to_pylist()]  # type: ignore[func-returns-value]
    return table.filter(pa.array(fresh, pa.bool_()))


def _unpublish(folder: str, fs: pafs.FileSystem, files: list[str], key: Key, manifest: str) -> None:
    kept: list[str] = []
    for file in files:
        table = pq.read_table(f"{folder}/{file}", filesystem=fs)
        table = table.filter(pc.not_equal(table["status"], FAILED))
        if len(table):
            kept.append(f"{PART}{_name(table, key)}.parquet")
            _write(table, kept[-1], folder, fs)
    fs.delete_file(f"{folder}/{manifest}")
    for file in files:
        if file not in kept:
            fs.delete_file(f"{folder}/{file}")


def _without(block: pa.Table, keys: list[ray.ObjectRef], key: Key) -> pa.Table:
    return block.filter(pc.invert(among(keys_of(block, key), ray.get(keys[0]))))


def _counts(folder: str, fs: pafs.FileSystem, parts: Sequence[str], key: Key) -> dict[str, int]:
    dataset = pads.dataset([f"{folder}/{name}" for name in parts], filesystem=fs, format="parquet")
    if not key:
        rows = dataset.count_rows()
        return {"rows": rows, "unique": rows}
    keys = keys_of(dataset.to_table(columns=list(key)), key)
    return {"rows": len(keys), "unique": len(pc.unique(keys))}


def _rewrite(folder: str, fs: pafs.FileSystem, parts: Sequence[str], key: Key) -> list[str]:
    """The parts' rows in files of ROWS_PER_FILE rows or a few more, one file in memory at a time.

    Failed rows come last: of a row that one attempt answered and another did not, the answer stays.
    """
    seen: set[str] = set()
    names: list[str] = []
    waiting: list[pa.Table] = []

    def flush() -> None:
        name = f"{FILE}{len(names):06d}.parquet"
        _write(pa.concat_tables(waiting), name, folder, fs)
        names.append(name)
        waiting.clear()

    def add(table: pa.Table) -> None:
        waiting.append(_first(table, key, seen) if key else table)
        if sum(map(len, waiting)) >= ROWS_PER_FILE:
            flush()

    schema = pq.read_schema(f"{folder}/{parts[0]}", filesystem=fs)
    failed: list[pa.Table] = []
    for part in parts:
        table = conform(pq.read_table(f"{folder}/{part}", filesystem=fs), schema)
        if key and "status" in schema.names:
            is_failed = pc.fill_null(pc.equal(table["status"], FAILED), False)
            failed.append(table.filter(is_failed))
            table = table.filter(pc.invert(is_failed))
        add(table)
    for table in failed:
        add(table)
    if waiting:
        flush()
    return names
