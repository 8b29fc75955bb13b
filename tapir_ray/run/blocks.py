"""Unfinished tables: one file per block, so that the finished rows of a killed stage are kept.

    write = functools.partial(write_block, folder=folder, fs=fs, key=("instruction_id",))
    for block in written(rows, write, 64, transform_cpus): ...
    files = compact(folder, fs, ("instruction_id",))         # merges many small files into few

A block is written completely or not at all. Its name is a hash of its keys, so a task that Ray repeats replaces its own
file. The files hold the rows themselves: no second record of finished rows can disagree with them.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data

from tapir_ray.cluster.ray_data import unfused
from tapir_ray.data import atomic_files
from tapir_ray.data.schemas import BUDGET_USED_UP, FAILED, conform
from tapir_ray.run.table_removal import FILES_AT_ONCE

BLOCK, FILE, UNFINISHED = "block-", "rows-", atomic_files.WRITING
"""Prefixes of the files of blocks, of finished tables, and of incomplete writes."""
ROWS_PER_FILE = 2_000
"""Fewest rows of a finished file, except the last: every file costs later reads a few round trips."""

Key = tuple[str, ...]
WRITTEN = pa.schema([("rows", pa.int64()), ("failed", pa.int64()), ("unasked", pa.int64()), ("error", pa.string())])
"""Summary of a written block; `error` is the reason of one of its failed rows."""


def written(
    rows: ray.data.Dataset, write: Callable[[pa.Table], pa.Table], rows_per_block: int | None, transform_cpus: float
) -> Generator[dict[str, Any], None, None]:
    """Runs the pipeline behind `rows` with `write` as its last step. Yields the summaries (WRITTEN) as they come.

    `write` is a function such as `write_block`; it gets blocks of `rows_per_block` rows. Close the generator if you
    leave it early: an open pipeline stops only when it is garbage collected. If Ray has ended by then, this starts Ray
    again.
    """
    # Not fused with the operators before it, which continue while a block is written.
    summaries = rows.map_batches(
        write, batch_format="pyarrow", batch_size=rows_per_block, num_cpus=unfused(transform_cpus)
    )
    # Without prefetching, since a summary that waits in the driver is not counted yet.
    blocks: Any = summaries.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0)
    for batch in blocks:
        yield from batch.to_pylist()


def write_block(block: pa.Table, folder: str, fs: pafs.FileSystem, key: Key) -> pa.Table:
    """Writes the rows of a block as one file and returns its summary, a table of one row (WRITTEN).

    Rows that were not asked because the budget is used up are left out, so that the next start asks them.
    """
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
        write_whole(block, f"{BLOCK}{name_of(block, key)}.parquet", folder, fs)
    return pa.Table.from_pylist(
        [{"rows": len(block), "failed": pc.sum(failed).as_py() or 0, "unasked": unasked, "error": error}], WRITTEN
    )


def found(folder: str, fs: pafs.FileSystem, transform_cpus: float) -> ray.data.Dataset:
    """Returns the rows of all blocks in the folder (at least one): a lazy dataset."""
    files = [f"{folder}/{name}" for name in names_of(folder, fs, BLOCK)]
    # One read task for each 32 files, since a task costs more than reading a small block.
    return ray.data.read_parquet(
        files, filesystem=fs, num_cpus=transform_cpus, partitioning=None, override_num_blocks=1 + len(files) // 32
    )


def compact(folder: str, fs: pafs.FileSystem, key: Key, transform_cpus: float = 0.1) -> list[str]:
    """Returns the names of a table's files: its blocks, or larger files if the blocks are small.

    A row in two blocks, which an overtaken attempt can write, is kept once. The blocks stay until `tidy`, so that
    compacting can be repeated after a crash.
    """
    block_files = names_of(folder, fs, BLOCK)
    if not block_files:
        return []
    # As tasks, because the driver may be far from the storage, and all keys of a table in memory.
    counts = ray.get(ray.remote(num_cpus=transform_cpus)(_counts).remote(folder, fs, block_files, key))
    # Blocks that are large enough on average and have no row twice are the files of the table as they are.
    if counts["unique"] == counts["rows"] and counts["rows"] >= ROWS_PER_FILE * (len(block_files) - 1):
        return block_files
    return ray.get(ray.remote(num_cpus=transform_cpus)(_rewrite).remote(folder, fs, block_files, key))


def tidy(folder: str, fs: pafs.FileSystem, files: Sequence[str]) -> None:
    """Deletes blocks and other files that do not belong to the finished table."""
    for prefix in (BLOCK, FILE, UNFINISHED):
        for name in names_of(folder, fs, prefix):
            if name not in files:
                fs.delete_file(f"{folder}/{name}")


def keys_of(table: pa.Table, key: Key) -> Any:
    """Returns the keys of the rows as strings; a missing value counts as empty."""
    columns = [pc.fill_null(table[name].cast(pa.string()), "") for name in key]
    # Joined with the unit separator of ASCII, which no id contains.
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "\x1f")


def key_of(row: dict[str, Any], key: Key) -> str:
    """Returns the key of a row, equal to its entry in `keys_of`."""
    return "\x1f".join("" if row[name] is None else str(row[name]) for name in key)


def files_of(folder: str, fs: pafs.FileSystem, key: Key) -> dict[str, str]:
    """Returns the name of a row's block by the key of the row, without failed rows and torn blocks."""
    files: dict[str, str] = {}
    for name in names_of(folder, fs, BLOCK):
        if is_torn(f"{folder}/{name}", fs):
            logging.getLogger(__name__).warning("%s/%s is empty or torn and is treated as absent", folder, name)
            continue
        table = pq.read_table(f"{folder}/{name}", columns=[*key, "status"], filesystem=fs)
        asked = table.filter(pc.not_equal(table["status"], FAILED))
        files |= dict.fromkeys(keys_of(asked, key).to_pylist(), name)
    return files


def name_of(block: pa.Table, key: Key) -> str:
    """Returns a name for a block: a hash of its keys, sorted as Ray keeps no order; without a key, of its content."""
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


def write_whole(table: pa.Table, name: str, folder: str, fs: pafs.FileSystem) -> None:
    """Writes a Parquet file completely or not at all (see `data/atomic_files.py`)."""
    atomic_files.write_parquet(fs, f"{folder}/{name}", table)


def is_torn(path: str, fs: pafs.FileSystem) -> bool:
    """Whether a Parquet file is empty or truncated, as after a crash of the machine: it has no footer."""
    try:
        pq.read_metadata(path, filesystem=fs)
    except pa.ArrowInvalid:
        return True
    except OSError as error:
        if error.errno is not None:
            raise  # an error of the storage; pyarrow's own about the format have no errno
        return True
    return False


def names_of(folder: str, fs: pafs.FileSystem, prefix: str) -> list[str]:
    """Returns the names of the files in a folder with this prefix, sorted; empty for a missing folder."""
    found = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    return sorted(info.base_name for info in found if info.base_name.startswith(prefix))


def first_of_each(table: pa.Table, key: Key, seen: set[str]) -> pa.Table:
    """Returns the first row of each key that is not in `seen`, and adds these keys to `seen`."""
    fresh = [value not in seen and not seen.add(value) for value in keys_of(table, key).to_pylist()]  # type: ignore[func-returns-value]
    return table.filter(pa.array(fresh, pa.bool_()))


def _counts(folder: str, fs: pafs.FileSystem, block_files: Sequence[str], key: Key) -> dict[str, int]:
    dataset = pads.dataset([f"{folder}/{name}" for name in block_files], filesystem=fs, format="parquet")
    if not key:
        rows = dataset.count_rows()
        return {"rows": rows, "unique": rows}
    keys = keys_of(dataset.to_table(columns=list(key)), key)
    return {"rows": len(keys), "unique": len(pc.unique(keys))}


def _read_in_turn(folder: str, fs: pafs.FileSystem, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yields the tables of the files in this order. Reads FILES_AT_ONCE at once."""
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for at in range(0, len(names), FILES_AT_ONCE):
            paths = [f"{folder}/{name}" for name in names[at : at + FILES_AT_ONCE]]
            yield from pool.map(functools.partial(pq.read_table, filesystem=fs), paths)


def _rewrite(folder: str, fs: pafs.FileSystem, block_files: Sequence[str], key: Key) -> list[str]:
    """Writes the rows of the blocks to files of at least ROWS_PER_FILE rows. Returns the names of the files.

    Memory holds one such file, FILES_AT_ONCE blocks and the failed rows. Failed rows come last, so that an answer wins
    over a failure of the same row in another attempt.
    """
    seen: set[str] = set()
    names: list[str] = []
    waiting: list[pa.Table] = []

    def flush() -> None:
        name = f"{FILE}{len(names):06d}.parquet"
        write_whole(pa.concat_tables(waiting), name, folder, fs)
        names.append(name)
        waiting.clear()

    def add(table: pa.Table) -> None:
        waiting.append(first_of_each(table, key, seen) if key else table)
        if sum(map(len, waiting)) >= ROWS_PER_FILE:
            flush()

    schema = pq.read_schema(f"{folder}/{block_files[0]}", filesystem=fs)
    failed: list[pa.Table] = []
    for table in _read_in_turn(folder, fs, block_files):
        table = conform(table, schema)
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
