"""Near-duplicate instructions over any number of rows: MinHash signatures (the `rensa` library) and LSH bands.

    marked = mark_near_duplicates(rows, work_dir, earlier=[round_1_bands], threshold=0.7)

Similarity is the Jaccard similarity of the texts' sets of lower-case word 3-grams (a text of fewer words counts as
one whole), estimated from 128 permutations. Rows carry an `order` string; a row is a duplicate if any row of a lower
order is similar, be it a duplicate itself: so the answer depends on neither blocks nor arrival. Bands are Parquet files
by bucket, written by a Ray Data pipeline and joined bucket by bucket in Ray tasks; later rounds read them again.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import ray
import ray.data
import xxhash
from pyarrow import fs
from rensa import RMinHash

from tapir_ray.records import FILTERED, OK, text_of
from tapir_ray.storage import Storage

PERMUTATIONS = 128
SEED = 20240522
SHINGLE_WORDS = 3
MIN_RECALL = 0.99
"""The least probability that two texts of exactly the threshold's similarity meet in some band."""
BUCKETS = 16
"""Parts of the join. A task holds one of them: about 0.3 GB for each million rows of a run."""
COMPARED_AT_ONCE = 1 << 22

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The lower-case words of a text: runs of letters, digits and underscores."""
    return _WORD.findall(text.lower())


def shingles(text: str) -> set[str]:
    """The word 3-grams of a text; one of fewer words is a single shingle."""
    words = words_of(text)
    if len(words) < SHINGLE_WORDS:
        return {" ".join(words) or text.strip()}
    return {" ".join(words[at : at + SHINGLE_WORDS]) for at in range(len(words) - SHINGLE_WORDS + 1)}


def signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash signatures, uint16 of shape (texts, PERMUTATIONS): the low half of each 32-bit minimum.

    Half the bytes to store and compare; unequal minima meet in it once in 65,536, far below the estimate's error.
    """
    digests = RMinHash.digests_from_token_sets([sorted(shingles(text)) for text in texts], PERMUTATIONS, SEED)
    return np.asarray(digests, np.uint32).reshape(len(texts), PERMUTATIONS).astype(np.uint16)


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity along the last axis: the share of equal entries."""
    return (one == other).mean(axis=-1)


def rows_per_band(threshold: float) -> int:
    """The most signature entries a band may have (fewest false candidates) at MIN_RECALL for `threshold`."""
    fitting = [
        size for size in range(1, PERMUTATIONS + 1) if 1 - (1 - threshold**size) ** (PERMUTATIONS // size) >= MIN_RECALL
    ]
    return max(fitting, default=1)


def band_hashes(signature: np.ndarray, threshold: float) -> np.ndarray:
    """A 64-bit hash of each band, uint64 of shape (texts, bands); equal for equal entries of the same band."""
    size = rows_per_band(threshold)
    bands = PERMUTATIONS // size
    parts = np.ascontiguousarray(signature[:, : bands * size]).reshape(len(signature), bands, size)
    hashes = [[xxhash.xxh3_64_intdigest(part.tobytes(), seed=band) for band, part in enumerate(row)] for row in parts]
    return np.array(hashes, np.uint64).reshape(len(signature), bands)


def bands(rows: ray.data.Dataset, out_dir: str, threshold: float, stage_cpus: float = 0.1) -> str:
    """Writes the bands of the rows of status ok to `out_dir` (emptied first); returns it as an absolute path or URI.

    Rows need `instruction_id`, `messages`, `status` and a unique `order`. A row lies once in every bucket that one of
    its bands falls into.
    """
    storage = Storage.at(out_dir)
    storage.fs.create_dir(storage.root, recursive=True)
    storage.fs.delete_dir_contents(storage.root)
    banded = rows.select_columns(["order", "instruction_id", "messages", "status"]).map_batches(
        functools.partial(band_table, threshold=threshold),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=stage_cpus,
    )
    banded.write_parquet(
        storage.root, filesystem=storage.fs, partition_cols=["bucket"], ray_remote_args={"num_cpus": stage_cpus}
    )
    return storage.uri


def mark_near_duplicates(
    rows: ray.data.Dataset,
    work_dir: str,
    earlier: Sequence[str],
    threshold: float,
    stage_cpus: float = 0.1,
) -> ray.data.Dataset:
    """`rows` with status filtered and a reason where a row of lower `order` is similar, and nothing else changed.

    Reasons: `duplicate: ID` where the messages are the same, else `near_duplicate: ID`, with the instruction_id of the
    row of lowest order. Rows not of status ok neither are marked nor count. `earlier` are folders that `bands` wrote,
    with the same threshold; the bands of `rows` stay in `work_dir`, to be `earlier` the next time. `rows` is read
    twice, so it must be stored or repeatable.
    """
    work_dir = bands(rows, work_dir, threshold, stage_cpus)
    folders = [Storage.at(folder).uri for folder in earlier]
    join = ray.remote(_join_buckets).options(num_cpus=stage_cpus)
    merge = ray.remote(_merge).options(num_cpus=stage_cpus)
    tasks = max(1, min(BUCKETS, int(ray.cluster_resources().get("CPU", 1))))
    parts = [join.remote(range(first, BUCKETS, tasks), work_dir, folders, threshold) for first in range(tasks)]
    found = merge.remote(*parts)
    return rows.map_batches(
        functools.partial(_mark, found=[found]), batch_format="pyarrow", batch_size=None, num_cpus=stage_cpus
    )


def band_table(rows: pa.Table, threshold: float) -> pa.Table:
    """The rows of status ok as (bucket, order, instruction_id, signature, bands): one entry a bucket of its bands."""
    rows = rows.filter(pc.equal(rows["status"], OK))
    signature = signatures([text_of(messages) for messages in rows["messages"].to_pylist()])
    hashes = band_hashes(signature, threshold)
    bucket = (hashes % np.uint64(BUCKETS)).astype(np.int64)
    row_index, bucket_index = np.nonzero((bucket[:, :, None] == np.arange(BUCKETS)).any(axis=1))
    chosen = [hashes[row][bucket[row] == number] for row, number in zip(row_index, bucket_index, strict=True)]
    packed = pa.array([entry.tobytes() for entry in signature], pa.binary())
    index = pa.array(row_index)
    return pa.table(
        {
            "bucket": pa.array(bucket_index, pa.int64()),
            "order": rows["order"].take(index),
            "instruction_id": rows["instruction_id"].take(index),
            "signature": packed.take(index),
            "bands": pa.array(chosen, pa.list_(pa.uint64())),
        }
    )


MATCHES = pa.schema([("order", pa.string()), ("same", pa.bool_()), ("first", pa.string()), ("first_id", pa.string())])
"""A duplicate, whether its messages are the same as the other row's, and the other row's order and id."""


def find_matches(current: pa.Table, earlier: pa.Table, threshold: float) -> pa.Table:
    """The duplicates among `current` (tables as `band_table` makes, of one bucket), as MATCHES, one row each."""
    both = pa.concat_tables([current, earlier]).append_column(
        "current", pa.array(np.arange(len(current) + len(earlier)) < len(current))
    )
    both = both.sort_by("order")
    if len(both) == 0:
        return MATCHES.empty_table()
    packed = np.frombuffer(b"".join(both["signature"].to_pylist()), np.uint16).reshape(len(both), PERMUTATIONS)
    is_current = both["current"].to_numpy()
    order, ids = both["order"].to_pylist(), both["instruction_id"].to_pylist()
    id_code = np.unique(both["instruction_id"].to_numpy(), return_inverse=True)[1]
    exploded = both["bands"].combine_chunks()
    members = exploded.value_parent_indices().to_numpy()
    hashes = exploded.flatten().to_numpy()
    by_band = np.lexsort((members, hashes))
    starts = np.flatnonzero(np.r_[True, hashes[by_band][1:] != hashes[by_band][:-1]])
    lengths = np.diff(np.r_[starts, len(by_band)])
    best: dict[int, tuple[bool, int]] = {}
    for start, length in zip(starts[lengths > 1], lengths[lengths > 1], strict=True):
        group = by_band[start : start + length]
        group = np.unique(members[group])
        if is_current[group].any():
            for late, early in _similar_pairs(group, packed, id_code, threshold):
                if is_current[late] and order[late] != order[early]:
                    rank = (ids[late] != ids[early], early)
                    best[late] = min(best.get(late, rank), rank)
    rows = [
        {"order": order[late], "same": not other, "first": order[early], "first_id": ids[early]}
        for late, (other, early) in sorted(best.items())
    ]
    return pa.Table.from_pylist(rows, schema=MATCHES)


def _similar_pairs(
    group: np.ndarray, packed: np.ndarray, id_code: np.ndarray, threshold: float
) -> list[tuple[int, int]]:
    """(later, earlier) pairs of similar rows of a band, given by rising order.

    Each row is compared with the first row of its own id and of each distinct signature, so that a text repeated many
    times costs no square.
    """
    first_same_id = _first_of(id_code[group])
    _, first, signature = np.unique(packed[group], axis=0, return_index=True, return_inverse=True)
    heads = packed[group[first]]
    pairs = set(zip(group.tolist(), group[first_same_id].tolist(), strict=True))
    step = max(1, COMPARED_AT_ONCE // (PERMUTATIONS * len(heads)))
    for begin in range(0, len(heads), step):
        similar = similarity(heads[begin : begin + step, None], heads[None]) >= threshold
        for one, other in zip(*np.nonzero(similar), strict=True):
            pairs |= {(int(row), int(group[first[other]])) for row in group[signature.reshape(-1) == one + begin]}
    return [(late, early) for late, early in pairs if late > early]


def _first_of(values: np.ndarray) -> np.ndarray:
    """For each entry the index of the first entry of the same value."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def _join_buckets(buckets: Sequence[int], current_dir: str, earlier: list[str], threshold: float) -> pa.Table:
    """The matches of some buckets, one after the other, so that one lies in memory at a time."""
    matches = []
    for bucket in buckets:
        current = _read_bucket(current_dir, bucket)
        older = [_read_bucket(folder, bucket) for folder in earlier] or [current.slice(0, 0)]
        matches.append(find_matches(current, pa.concat_tables(older), threshold))
    return pa.concat_tables(matches)


def _merge(*parts: pa.Table) -> pa.Table:
    """One match for each row: the same messages before similar ones, then the lowest order."""
    table = pa.concat_tables(parts).sort_by([("order", "ascending"), ("same", "descending"), ("first", "ascending")])
    order = table["order"].to_numpy()
    return table.filter(pa.array(np.r_[True, order[1:] != order[:-1]] if len(order) else np.zeros(0, bool)))


def _mark(rows: pa.Table, found: list[Any]) -> pa.Table:
    matches = ray.get(found[0])
    at = pc.index_in(rows["order"], matches["order"])
    kind = pc.if_else(matches["same"], "duplicate: ", "near_duplicate: ")
    reason = pc.binary_join_element_wise(kind, matches["first_id"], "").take(at)
    dropped = pc.and_(pc.is_valid(at), pc.equal(rows["status"], OK))
    return replace_status(rows, dropped, reason)


def replace_status(rows: pa.Table, dropped: Any, reason: Any) -> pa.Table:
    """`rows` with status filtered and the reason where `dropped`."""
    names = rows.column_names
    rows = rows.set_column(names.index("status"), "status", pc.if_else(dropped, FILTERED, rows["status"]))
    return rows.set_column(names.index("reason"), "reason", pc.if_else(dropped, reason, rows["reason"]))


def _read_bucket(folder: str, bucket: int) -> pa.Table:
    storage = Storage.at(folder)
    part = storage.path(f"bucket={bucket}")
    columns = pa.schema(
        [
            ("order", pa.string()),
            ("instruction_id", pa.string()),
            ("signature", pa.binary()),
            ("bands", pa.list_(pa.uint64())),
        ]
    )
    if storage.fs.get_file_info(part).type == fs.FileType.NotFound:
        return columns.empty_table()
    return ds.dataset(part, schema=columns, filesystem=storage.fs, format="parquet").to_table()
