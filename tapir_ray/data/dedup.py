"""Finds near-duplicate instructions among any number of rows, by the signatures and bands of `minhash.py`.

    marked = mark_near_duplicates(rows, work_dir, earlier=[round_1_bands], threshold=0.7)

Rows carry an `order` string. A row is a duplicate if any row of lower order is similar, even one that is a duplicate
itself, so the result depends neither on blocks nor on their order of arrival. In a band shared by more than
MOST_COMPARED distinct texts, each further text is compared only with the MOST_COMPARED ones of lowest order: the work
stays linear. A Ray Data pipeline writes the bands as Parquet files sorted by hash; Ray tasks join them in ranges of
hashes, more ranges for more rows. Later rounds read the files again.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
import ray.data

from tapir_ray.data.minhash import PERMUTATIONS, band_hashes, signatures_of, similarity
from tapir_ray.data.ngrams import NO_BOILERPLATE, Boilerplate, tokens, turns_of
from tapir_ray.data.schemas import FILTERED, OK
from tapir_ray.data.storage import Storage

ROWS_PER_FILE = 16_384
"""Rows whose bands one task holds in memory: about 11 kB a row at a threshold of 0.7."""
ENTRIES_PER_GROUP = 8192
"""Entries of a row group. A task reads the groups that its range touches; smaller groups cost more metadata."""
RANGE_BYTES = 256 * 1024**2
"""Bytes of bands that a task joins at a time; it needs about four times this memory."""
MOST_COMPARED = 128
"""Texts of a band with which each further text of the band is compared."""
COMPARED_AT_ONCE = 1 << 15
"""Pairs of signatures compared in one numpy operation; bounds its memory."""

BANDS = pa.schema(
    [
        ("band", pa.uint64()),
        ("order", pa.string()),
        ("instruction_id", pa.string()),
        ("signature", pa.binary(2 * PERMUTATIONS)),
        ("whole", pa.binary()),
    ]
)
"""One row for each band of a text. `signature` is that of the text without boilerplate; `whole` is that of the full
text, null if both are the same."""


def bands(
    rows: ray.data.Dataset,
    out_dir: str,
    threshold: float,
    transform_cpus: float = 0.1,
    boilerplate: Boilerplate = NO_BOILERPLATE,
) -> str:
    """Writes the bands of the rows with status ok to `out_dir`, after emptying it; returns its absolute path or URI.

    Rows need `instruction_id`, `messages`, `status` and a unique `order`.
    """
    storage = Storage.at(out_dir)
    storage.fs.create_dir(storage.root, recursive=True)
    storage.fs.delete_dir_contents(storage.root)
    # By reference: Ray would send a copy of the boilerplate with every task.
    write = functools.partial(
        write_bands, folder=storage.root, fs=storage.fs, threshold=threshold, boilerplate=[ray.put(boilerplate)]
    )
    written = rows.select_columns(["order", "instruction_id", "messages", "status"]).map_batches(
        write,
        batch_format="pyarrow",
        batch_size=ROWS_PER_FILE,
        num_cpus=transform_cpus,
        compute=ray.data.TaskPoolStrategy(size=_at_once()),
    )
    # Runs the pipeline and keeps none of its output.
    deque(written.iter_batches(batch_format="pyarrow", batch_size=None), maxlen=0)
    return storage.uri


def mark_near_duplicates(
    rows: ray.data.Dataset,
    work_dir: str,
    earlier: Sequence[str],
    threshold: float,
    transform_cpus: float = 0.1,
    boilerplate: Boilerplate = NO_BOILERPLATE,
) -> ray.data.Dataset:
    """`rows`, with status filtered and a reason for each row that is similar to one of lower `order`.

    The reason is `duplicate: ID` for the same messages, else `near_duplicate: ID`; ID is the instruction_id of the
    similar row of lowest order. Rows of another status than ok are neither marked nor compared. `earlier` lists folders
    written by `bands` with the same threshold. The bands of `rows` stay in `work_dir`, to be passed as `earlier` the
    next time. `rows` is read twice, so it must be stored or repeatable.
    """
    folders = [
        bands(rows, work_dir, threshold, transform_cpus, boilerplate),
        *(Storage.at(folder).uri for folder in earlier),
    ]
    ranges = -(-sum(map(_bytes, folders)) // RANGE_BYTES)
    tasks = max(1, min(ranges, _at_once()))
    # SPREAD, because these tasks need memory and claim few CPUs: by default Ray would pack them on one node.
    join = ray.remote(_join_ranges).options(num_cpus=transform_cpus, scheduling_strategy="SPREAD")
    merge = ray.remote(_merge).options(num_cpus=transform_cpus)
    found = merge.remote(*(join.remote(range(at, ranges, tasks), ranges, folders, threshold) for at in range(tasks)))
    # Waits here: a pipeline whose tasks all wait for the matches makes no progress, and Ray Data would abort it.
    ray.wait([found], fetch_local=False)
    return rows.map_batches(
        functools.partial(_mark, found=[found]), batch_format="pyarrow", batch_size=None, num_cpus=transform_cpus
    )


def band_table(rows: pa.Table, threshold: float, boilerplate: Boilerplate = NO_BOILERPLATE) -> pa.Table:
    """The bands of the rows with status ok: schema BANDS, sorted by hash."""
    rows = rows.filter(pc.equal(rows["status"], OK))
    spoken = [turns_of(messages) for messages in rows["messages"].to_pylist()]
    own = [boilerplate.own(turns) for turns in spoken]
    signature = signatures_of([tokens(turns, mine) for turns, mine in zip(spoken, own, strict=True)])
    mixed = [at for at, mine in enumerate(own) if mine is not None]
    whole: list[bytes | None] = [None] * len(rows)
    for at, one in zip(mixed, signatures_of([tokens(spoken[at]) for at in mixed]), strict=True):
        whole[at] = one.tobytes()
    hashes = band_hashes(signature, threshold)
    packed = pa.FixedSizeBinaryArray.from_buffers(
        BANDS.field("signature").type, len(rows), [None, pa.py_buffer(signature.tobytes())]
    )
    by_hash = np.argsort(hashes, axis=None, kind="stable")
    index = pa.array(by_hash // max(1, hashes.shape[1]))
    texts = (rows["order"], rows["instruction_id"], packed, pa.array(whole, pa.binary()))
    columns = [column.take(index) for column in texts]
    return pa.table([pa.array(hashes.reshape(-1)[by_hash]), *columns], schema=BANDS)


def write_bands(
    rows: pa.Table,
    folder: str,
    fs: pafs.FileSystem,
    threshold: float,
    boilerplate: Sequence[ray.ObjectRef] = (),
) -> pa.Table:
    """Writes the bands of the rows as one file of the folder; returns a table of one row with their number.

    The file's name is a hash of the rows' `order`, so a repeated task overwrites its own file. `boilerplate` is empty
    or holds one reference to a Boilerplate.
    """
    table = band_table(rows, threshold, ray.get(boilerplate[0]) if boilerplate else NO_BOILERPLATE)
    name = hashlib.blake2b("\n".join(rows["order"].to_pylist()).encode(), digest_size=12).hexdigest()
    if len(table):
        pq.write_table(
            table,
            f"{folder}/{name}.parquet",
            filesystem=fs,
            row_group_size=ENTRIES_PER_GROUP,
            compression="none",  # hashes: neither this nor a dictionary makes them smaller
            use_dictionary=False,
            write_statistics=["band"],  # by which `read_range` skips row groups
        )
    return pa.table({"bands": [len(table)]})


def read_range(folder: str, number: int, ranges: int) -> pa.Table:
    """The bands of a folder with a hash in the `number`-th (from 0) of `ranges` equal ranges; schema BANDS."""
    storage = Storage.at(folder)
    files = [info.path for info in _files(storage)]
    if not files:
        return BANDS.empty_table()
    first, last = (number << 64) // ranges, ((number + 1) << 64) // ranges - 1
    band, limits = pads.field("band"), (pa.scalar(first, pa.uint64()), pa.scalar(last, pa.uint64()))
    dataset = pads.dataset(files, schema=BANDS, filesystem=storage.fs, format="parquet")
    return dataset.to_table(filter=(band >= limits[0]) & (band <= limits[1]))


MATCHES = pa.schema([("order", pa.string()), ("same", pa.bool_()), ("first", pa.string()), ("first_id", pa.string())])
"""`order` of a duplicate, `same` (True for equal messages), and order and id of the row that it duplicates."""


def find_matches(current: pa.Table, earlier: pa.Table, threshold: float) -> pa.Table:
    """The duplicates among the rows of `current`: schema MATCHES, one row each.

    Both tables have the schema BANDS, and hold all entries of the bands that they contain.
    """
    both = pa.concat_tables([_flagged(current, 1), _flagged(earlier, 0)])
    _, at, count = np.unique(both["band"].to_numpy(), return_inverse=True, return_counts=True)
    both = both.filter(pa.array(count[at] > 1)).sort_by([("order", "ascending"), ("current", "descending")])
    if not len(both):
        return MATCHES.empty_table()
    # From here on a row is an index in rising `order`, and a signature is represented by the first row that has it.
    order = both["order"].combine_chunks()
    begins = np.r_[True, pc.not_equal(order[1:], order[:-1]).to_numpy(zero_copy_only=False)]
    entry_row = np.cumsum(begins) - 1
    rows = both.filter(pa.array(begins))
    own = rows["signature"].cast(pa.binary())
    whole = pc.coalesce(rows["whole"], own)
    same_id, same_text = _first_of(rows["instruction_id"]), _first_of(pc.binary_join_element_wise(own, whole, b""))
    row = np.arange(len(rows))
    is_first = (same_text == row)[entry_row]
    late, early = _similar_pairs(
        both["band"].to_numpy()[is_first], entry_row[is_first], _unpacked(rows["signature"]), threshold
    )
    if rows["whole"].null_count < len(rows):
        wholes = _unpacked(whole.cast(pa.binary(2 * PERMUTATIONS)))
        alike = [
            similarity(wholes[late[at : at + COMPARED_AT_ONCE]], wholes[early[at : at + COMPARED_AT_ONCE]]) >= threshold
            for at in range(0, len(late), COMPARED_AT_ONCE)
        ]
        kept = np.concatenate([np.zeros(0, bool), *alike])
        late, early = late[kept], early[kept]
    lowest = row.copy()
    np.minimum.at(lowest, late, early)
    found = np.where(same_id < row, same_id, lowest[same_text])
    dropped = np.flatnonzero((found < row) & (rows["current"].to_numpy() == 1))
    of, first = rows.take(pa.array(dropped)), rows.take(pa.array(found[dropped]))
    same = pa.array(same_id[dropped] < dropped)
    return pa.table([of["order"], same, first["order"], first["instruction_id"]], schema=MATCHES)


def _similar_pairs(
    band: np.ndarray, row: np.ndarray, signature: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """(later rows, earlier rows) of the pairs that share a band and are similar, as two arrays of equal length.

    `band` and `row` describe the entries; no two of their rows have the same signature. `signature` is indexed by row.
    """
    sort = np.lexsort((row, band))
    row, band = row[sort], band[sort]
    begins = np.r_[True, band[1:] != band[:-1]][: len(band)]
    start = np.flatnonzero(begins)[np.cumsum(begins) - 1]
    place = np.arange(len(row)) - start  # of an entry within its band
    later, found = np.flatnonzero(place), [np.zeros((2, 0), np.int64)]
    for nth in range(MOST_COMPARED):
        later = later[place[later] > nth]
        for begin in range(0, len(later), COMPARED_AT_ONCE):
            at = later[begin : begin + COMPARED_AT_ONCE]
            late, early = row[at], row[start[at] + nth]
            similar = similarity(signature[late], signature[early]) >= threshold
            found.append(np.stack([late[similar], early[similar]]))
    late, early = np.concatenate(found, axis=1)
    return late, early


def _flagged(entries: pa.Table, current: int) -> pa.Table:
    return entries.append_column("current", pa.array(np.full(len(entries), current, np.int8)))


def _first_of(values: pa.ChunkedArray) -> np.ndarray:
    """The index of the first equal value, for each value: ["a", "b", "a"] gives [0, 1, 0]."""
    codes = values.combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    return first[codes]


def _unpacked(signature: pa.ChunkedArray) -> np.ndarray:
    """The signatures of a binary column, uint16 of shape (rows, PERMUTATIONS)."""
    array = signature.combine_chunks()
    values = np.frombuffer(array.buffers()[1], np.uint16).reshape(-1, PERMUTATIONS)
    return values[array.offset : array.offset + len(array)]


def _join_ranges(numbers: Sequence[int], ranges: int, folders: Sequence[str], threshold: float) -> pa.Table:
    """The matches of some ranges, joined one after the other to hold only one in memory."""
    found = [MATCHES.empty_table()]
    for number in numbers:
        current, *earlier = (read_range(folder, number, ranges) for folder in folders)
        found.append(find_matches(current, pa.concat_tables([BANDS.empty_table(), *earlier]), threshold))
    return pa.concat_tables(found)


def _merge(*parts: pa.Table) -> pa.Table:
    """One match for each row, sorted by order: equal messages win over similar ones, then the lowest order wins."""
    table = pa.concat_tables(parts).sort_by([("order", "ascending"), ("same", "descending"), ("first", "ascending")])
    order = table["order"].to_numpy()
    once = table.filter(pa.array(np.r_[True, order[1:] != order[:-1]] if len(order) else np.zeros(0, bool)))
    return once.combine_chunks()


def _mark(rows: pa.Table, found: list[Any]) -> pa.Table:
    matches = ray.get(found[0])
    if not len(matches):
        return rows
    # By binary search, as the matches are sorted: a hash table built again for each block would cost rows x matches.
    at = pc.search_sorted(matches["order"].chunk(0), rows["order"].combine_chunks())
    match = matches.take(pc.min_element_wise(at, len(matches) - 1))
    kind = pc.if_else(match["same"], "duplicate: ", "near_duplicate: ")
    reason = pc.binary_join_element_wise(kind, match["first_id"], "")
    dropped = pc.and_(pc.equal(match["order"], rows["order"]), pc.equal(rows["status"], OK))
    return replace_status(rows, dropped, reason)


def _at_once() -> int:
    """Most tasks to run at the same time: one for each CPU, as they claim a fraction of one and need much memory."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _bytes(folder: str) -> int:
    return sum(info.size for info in _files(Storage.at(folder)))


def _files(storage: Storage) -> list[pafs.FileInfo]:
    """The Parquet files of a folder of bands; empty for a round without generated rows, which has no folder."""
    found = storage.fs.get_file_info(pafs.FileSelector(storage.root, allow_not_found=True))
    return [info for info in found if info.base_name.endswith(".parquet")]


def replace_status(rows: pa.Table, dropped: Any, reason: Any) -> pa.Table:
    """`rows` with status filtered and the given reason in the rows that `dropped` (booleans) selects."""
    names = rows.column_names
    rows = rows.set_column(names.index("status"), "status", pc.if_else(dropped, FILTERED, rows["status"]))
    return rows.set_column(names.index("reason"), "reason", pc.if_else(dropped, reason, rows["reason"]))
