"""Pack: turns training pairs into packed token sequences, the table `training` into the table `packed`.

    rows = count_tokens(rows, model_dir, config.student, config.train, config.resources.transform_cpus)
    stats = pack([files], "runs/x/rounds/01/packed", fs, model_dir, config.student, config.train, 0, epochs=1)

Pairs are ordered by a hash of (pair id, random seed, epoch), and packed in chunks cut at fixed values of that hash. So
the sequences do not depend on the number of files, blocks or workers. The hash of every table but the first also takes
the number of the table, or a pair that is in two tables would follow its own copy.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tapir_ray.config import Student, Train
from tapir_ray.data.schemas import OK, PACKED, conform, order_key
from tapir_ray.train.chat import end_of_turn, shared_tokenizer
from tapir_ray.train.control_tokens import RowRefused, SpecialToken
from tapir_ray.train.loss_mask import encode
from tapir_ray.transforms.pack_chunks import PAIRS_PER_CHUNK, Cut, cut_for
from tapir_ray.transforms.pack_stats import PackStats

SEQUENCES_PER_ROW_GROUP = 64

_ENCODED = pa.schema(
    [
        ("key", pa.string()),
        ("pair_id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
    ]
)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Returns the positions of `lengths` by sequence: `best_fit([3, 4, 1], 4)  # [[0, 2], [1]]`.

    Best fit: a pair goes to the fullest sequence with enough room, the oldest of equals, or else opens a new one. Every
    length must be at most `capacity`.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for position, length in enumerate(lengths):
        place = bisect.bisect_left(room, (length, -1))
        if place == len(room):
            free, number = capacity, len(bins)
            bins.append([])
        else:
            free, number = room.pop(place)
        bins[number].append(position)
        bisect.insort(room, (free - length, number))
    return bins


def pack(
    tables: Sequence[list[str]],
    target_dir: str,
    fs: pafs.FileSystem,
    model_dir: str,
    student: Student,
    train: Train,
    random_seed: int,
    epochs: int,
    transform_cpus: float = 0.1,
    pairs_per_chunk: int = PAIRS_PER_CHUNK,
) -> PackStats:
    """Writes the ok rows of training tables as packed sequences to `target_dir`, and replaces its content.

    Each table is given by its files; all paths are paths on `fs`. The packed files `packed-EPOCH-CHUNK.parquet` are in
    the order of `seq_index`; the sequences of epoch e follow those of epoch e − 1. Without `train.packing` each pair is
    a sequence. Returns the counts. Raises InputError (inside Ray's own error) for a student without a tokenizer.
    """
    import ray

    target_dir = target_dir.rstrip("/")
    encoded_dir = f"{target_dir}.encoded"
    # A killed attempt may have left files, which would be read as part of this packing.
    for folder in (target_dir, encoded_dir):
        fs.create_dir(folder, recursive=True)
        fs.delete_dir_contents(folder)
    task = ray.remote(num_cpus=transform_cpus)
    sources = [(path, table) for table, paths in enumerate(tables) for path in paths]
    sizes = _run_all(task(_ok_rows), ((fs, path) for path, _ in sources))
    cut = cut_for(sum(sizes), pairs_per_chunk)
    groups = list(_grouped(sources, sizes, cut.pairs_per_task))
    counted: list[dict[str, int]] = _run_all(
        task(_encode),
        (
            (fs, group, encoded_dir, number, model_dir, student, train, random_seed, epochs, cut)
            for number, group in enumerate(groups)
        ),
    )
    common = (fs, encoded_dir, len(groups), cut, train.sequence_length if train.packing else None)
    ranges = [(epoch, number) for epoch in range(epochs) for number in range(cut.ranges)]
    sequences = _run_all(task(_count_sequences), ((*common, *place) for place in ranges))
    starts = np.cumsum([0, *sequences])
    _run_all(
        task(_write_sequences),
        (
            (*common, *place, int(start), target_dir)
            for place, start, count in zip(ranges, starts, sequences, strict=False)
            if count
        ),
    )
    fs.delete_dir(encoded_dir)
    totals = {name: sum(counts[name] for counts in counted) for name in (*_EACH_EPOCH, *_ONCE)}
    totals.update({name: totals[name] * epochs for name in _EACH_EPOCH})
    return PackStats(sequences=int(starts[-1]), epochs=epochs, **totals)


_EACH_EPOCH = ("tokens", "response_tokens", "hard_tokens", "pairs")
_ONCE = ("cut", "over_length", "template_refused", "special_token", "last_turn_only")


def _encoded_file(encoded_dir: str, number: int, epoch: int) -> str:
    """Returns the file of one task's encoded pairs in one epoch, with one row group for each range of chunks."""
    return f"{encoded_dir}/{number:06d}-{epoch:03d}.parquet"


def _run_all(task: Any, arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Returns the results in the order of `arguments`; at most as many tasks run as the cluster has CPUs."""
    # A task claims a fraction of a CPU, so Ray alone would start many more at once, each with its rows in memory.
    import ray

    at_once = max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: list[Any] = []
    results = []
    for number, args in enumerate(arguments):
        # `ray.wait` returns once enough of the earlier tasks are done for one more to start.
        if number >= at_once:
            ray.wait(running, num_returns=number - at_once + 1)
        running.append(task.remote(*args))
    for reference in running:
        results.append(ray.get(reference))
    return results


def _ok_rows(fs: pafs.FileSystem, path: str) -> int:
    status = pq.read_table(path, columns=["status"], filesystem=fs)["status"]
    return int(pc.sum(pc.equal(status, OK)).as_py() or 0)


def _grouped(sources: Sequence[tuple[str, int]], sizes: Sequence[int], most: int) -> Iterator[list[tuple[str, int]]]:
    """Yields the sources in groups of at most `most` rows; a larger source is a group of its own."""
    group: list[tuple[str, int]] = []
    rows = 0
    for source, size in zip(sources, sizes, strict=True):
        if group and rows + size > most:
            yield group
            group, rows = [], 0
        group.append(source)
        rows += size
    if group:
        yield group


def _encode(
    fs: pafs.FileSystem,
    sources: list[tuple[str, int]],
    encoded_dir: str,
    number: int,
    model_dir: str,
    student: Student,
    train: Train,
    random_seed: int,
    epochs: int,
    cut: Cut,
) -> dict[str, int]:
    """Tokenises the ok rows of the files (each with the number of its table), writes them by epoch, returns counts."""
    tokenizer = shared_tokenizer(model_dir, student)
    end = end_of_turn(tokenizer, student.chat_template_kwargs)
    encoded: list[dict[str, Any]] = []
    counts = dict.fromkeys((*_EACH_EPOCH, *_ONCE), 0)
    for path, table in sources:
        rows = pq.read_table(
            path, columns=["pair_id", "messages", "response", "masked_turns", "pool", "status"], filesystem=fs
        )
        for row in rows.filter(pc.equal(rows["status"], OK)).to_pylist():
            try:
                pair = encode(tokenizer, row["messages"], row["response"], student, train, end, row["masked_turns"])
            except RowRefused as refused:
                counts["special_token" if isinstance(refused, SpecialToken) else "template_refused"] += 1
                continue
            if not pair.in_loss:
                counts["over_length"] += 1
                continue
            encoded.append(
                {
                    "pair_id": row["pair_id"],
                    "table": table,
                    "input_ids": np.asarray(pair.input_ids, np.int32),
                    "labels": np.asarray(pair.labels, np.int32),
                }
            )
            counts["pairs"] += 1
            counts["cut"] += pair.was_cut
            counts["tokens"] += len(pair.input_ids)
            counts["response_tokens"] += pair.in_loss
            counts["hard_tokens"] += pair.in_loss if row["pool"] == "hard" else 0
            counts["last_turn_only"] += pair.last_turn_only
    for epoch in range(epochs):
        by_range: list[list[dict[str, Any]]] = [[] for _ in range(cut.ranges)]
        for row in encoded:
            salt = (epoch, row["table"]) if row["table"] else (epoch,)
            key = order_key(row["pair_id"], random_seed, *salt)
            by_range[cut.range_of(key)].append({**row, "key": key})
        with pq.ParquetWriter(_encoded_file(encoded_dir, number, epoch), _ENCODED, filesystem=fs) as writer:
            for group in by_range:  # empty ranges too, since a row group is found by the number of its range
                writer.write_table(pa.Table.from_pylist(group, schema=_ENCODED), row_group_size=max(1, len(group)))
    return counts


def _chunks(
    fs: pafs.FileSystem,
    encoded_dir: str,
    files: int,
    cut: Cut,
    epoch: int,
    number: int,
    columns: list[str] | None = None,
) -> Iterator[tuple[int, pa.Table]]:
    """Yields the chunks of range `number` that have pairs, each with its pairs in order."""
    tables = [_ENCODED.empty_table() if columns is None else _ENCODED.empty_table().select(columns)]
    for index in range(files):
        with pq.ParquetFile(_encoded_file(encoded_dir, index, epoch), filesystem=fs) as file:
            tables.append(file.read_row_group(number, columns=columns))
    pairs = pa.concat_tables(tables).sort_by("key")
    chunks = [cut.chunk_of(key) for key in pairs["key"].to_pylist()]
    for chunk, start, count in zip(*np.unique(chunks, return_index=True, return_counts=True), strict=True):
        yield int(chunk), pairs.slice(int(start), int(count))


def _bins(chunk: pa.Table, capacity: int | None) -> list[list[int]]:
    """Returns the positions of the pairs of each sequence; without a capacity one pair each."""
    if capacity is None:
        return [[position] for position in range(len(chunk))]
    return best_fit(pc.list_value_length(chunk["input_ids"]).to_pylist(), capacity)


def _count_sequences(
    fs: pafs.FileSystem, encoded_dir: str, files: int, cut: Cut, capacity: int | None, epoch: int, number: int
) -> int:
    """Returns the number of sequences of a range."""
    chunks = _chunks(fs, encoded_dir, files, cut, epoch, number, ["key", "input_ids"])
    return sum(len(_bins(pairs, capacity)) for _, pairs in chunks)


def _write_sequences(
    fs: pafs.FileSystem,
    encoded_dir: str,
    files: int,
    cut: Cut,
    capacity: int | None,
    epoch: int,
    number: int,
    start: int,
    target_dir: str,
) -> None:
    """Writes the sequences of a range, a file for each chunk; the first sequence has index `start`."""
    for chunk, pairs in _chunks(fs, encoded_dir, files, cut, epoch, number):
        ids, labels, pair_ids = (pairs[name].to_pylist() for name in ("input_ids", "labels", "pair_id"))
        sequences = [
            {
                "seq_index": start + offset,
                "input_ids": [token for member in members for token in ids[member]],
                "labels": [label for member in members for label in labels[member]],
                "position_ids": [position for member in members for position in range(len(ids[member]))],
                "pair_ids": [pair_ids[member] for member in members],
            }
            for offset, members in enumerate(_bins(pairs, capacity))
        ]
        target = f"{target_dir}/packed-{epoch:03d}-{chunk:06d}.parquet"
        pq.write_table(conform(sequences, PACKED), target, filesystem=fs, row_group_size=SEQUENCES_PER_ROW_GROUP)
        start += len(sequences)
