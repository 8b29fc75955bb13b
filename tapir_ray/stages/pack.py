"""Training pairs to packed token sequences: the `training` table in, the `packed` table out.

    rows = count_tokens(rows, model_dir, config.student, config.train, config.resources.stage_cpus)
    stats = pack(files, "runs/x/rounds/01/packed", fs, model_dir, config.student, config.train, 0, epochs=1)

The order is a function of (pair id, random seed, epoch) alone, and pairs are packed in chunks cut at fixed values of
that hash, so the sequences are the same however many files, blocks or workers there were.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tapir_ray.config import Student, Train
from tapir_ray.records import OK, PACKED, conform, order_key
from tapir_ray.train.chat import TemplateRefused, end_of_turn, shared_tokenizer
from tapir_ray.train.turns import encode

PAIRS_PER_CHUNK = 4096
"""Pairs sorted and packed together; a chunk is what one task holds in memory."""

PAIRS_PER_TASK = 16_384
"""Small source files are tokenised together up to this many rows, because a task first has to load the tokenizer."""

SEQUENCES_PER_ROW_GROUP = 64

_ENCODED = pa.schema(
    [
        ("key", pa.string()),
        ("pair_id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True)
class PackStats:
    """What was packed. Sequences, tokens and pairs are counted in each epoch, all that follow `pairs` once."""

    sequences: int
    tokens: int
    response_tokens: int
    """The ones in the loss."""
    hard_tokens: int
    """Response tokens of the pool `hard`."""
    pairs: int
    cut: int
    """Pairs whose end was left out (`train.over_length: cut`)."""
    over_length: int
    """Pairs left out because they do not fit `train.sequence_length`."""
    template_refused: int
    """Pairs left out because the chat template does not take their roles."""
    last_turn_only: int
    """Pairs with the response alone in the loss though `train.turns` is `all`: the template rewrites an earlier one."""
    epochs: int


@dataclass(frozen=True)
class _Part:
    """An epoch's file of encoded pairs and the row group of each chunk that is in it."""

    path: str
    row_groups: dict[int, int]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Positions of `lengths` by sequence, each at most `capacity` in sum (as each length is); every position once.

    Best-fit: a pair goes to the fullest sequence that still has room, the oldest of equals, else opens a new one.
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
    source_files: Sequence[str],
    target_dir: str,
    fs: pafs.FileSystem,
    model_dir: str,
    student: Student,
    train: Train,
    random_seed: int,
    epochs: int,
    stage_cpus: float = 0.1,
    pairs_per_chunk: int = PAIRS_PER_CHUNK,
) -> PackStats:
    """Write the `ok` rows of the training files as packed sequences to `target_dir`, replacing what is there.

    The files are `part-EPOCH-CHUNK.parquet` in the order of `seq_index`; the sequences of epoch e follow those of
    epoch e − 1. Paths are paths on `fs`. Raises InputError (inside Ray's own error) for a student without tokenizer.
    """
    import ray

    target_dir = target_dir.rstrip("/")
    parts_dir = f"{target_dir}.parts"
    for folder in (target_dir, parts_dir):
        fs.create_dir(folder, recursive=True)
        fs.delete_dir_contents(folder)
    task = ray.remote(num_cpus=stage_cpus)
    sizes = _run_all(task(_ok_rows), [(fs, path) for path in source_files])
    n_chunks = max(1, -(-sum(sizes) // pairs_per_chunk))
    encoded: list[tuple[dict[str, int], list[_Part]]] = _run_all(
        task(_encode),
        [
            (fs, paths, f"{parts_dir}/{number:06d}", model_dir, student, train, random_seed, epochs, n_chunks)
            for number, paths in enumerate(_grouped(source_files, sizes))
        ],
    )
    chunks = [
        (_sources([parts[epoch] for _, parts in encoded], chunk), epoch, chunk)
        for epoch in range(epochs)
        for chunk in range(n_chunks)
    ]
    capacity = train.sequence_length
    sequences = _run_all(task(_count_sequences), [(fs, sources, capacity) for sources, _, _ in chunks])
    starts = np.cumsum([0, *sequences])
    _run_all(
        task(_write_sequences),
        [
            (fs, sources, capacity, int(start), f"{target_dir}/part-{epoch:03d}-{chunk:06d}.parquet")
            for (sources, epoch, chunk), start, count in zip(chunks, starts, sequences, strict=False)
            if count
        ],
    )
    fs.delete_dir(parts_dir)
    totals = {name: sum(counts[name] for counts, _ in encoded) for name in (*_EACH_EPOCH, *_ONCE)}
    totals.update({name: totals[name] * epochs for name in _EACH_EPOCH})
    return PackStats(sequences=int(starts[-1]), epochs=epochs, **totals)


_EACH_EPOCH = ("tokens", "response_tokens", "hard_tokens", "pairs")
_ONCE = ("cut", "over_length", "template_refused", "last_turn_only")


def _sources(parts: Sequence[_Part], chunk: int) -> list[tuple[str, int]]:
    return [(part.path, part.row_groups[chunk]) for part in parts if chunk in part.row_groups]


def _run_all(task: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Results in the order of `arguments`, with no more tasks at work than the cluster has CPUs."""
    import ray

    at_once = max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: list[Any] = []
    results = []
    for number, args in enumerate(arguments):
        if number >= at_once:
            ray.wait(running, num_returns=number - at_once + 1)
        running.append(task.remote(*args))
    for reference in running:
        results.append(ray.get(reference))
    return results


def _ok_rows(fs: pafs.FileSystem, path: str) -> int:
    status = pq.read_table(path, columns=["status"], filesystem=fs)["status"]
    return int(pc.sum(pc.equal(status, OK)).as_py() or 0)


def _grouped(files: Sequence[str], sizes: Sequence[int]) -> Iterator[list[str]]:
    group: list[str] = []
    rows = 0
    for path, size in zip(files, sizes, strict=True):
        if group and rows + size > PAIRS_PER_TASK:
            yield group
            group, rows = [], 0
        group.append(path)
        rows += size
    if group:
        yield group


def _encode(
    fs: pafs.FileSystem,
    paths: list[str],
    target: str,
    model_dir: str,
    student: Student,
    train: Train,
    random_seed: int,
    epochs: int,
    n_chunks: int,
) -> tuple[dict[str, int], list[_Part]]:
    """Tokenise the `ok` rows of `paths` and count them; one file an epoch, a row group for each chunk with rows."""
    tokenizer = shared_tokenizer(model_dir, student)
    end = end_of_turn(tokenizer, student.chat_template_kwargs)
    encoded: list[dict[str, Any]] = []
    counts = dict.fromkeys((*_EACH_EPOCH, *_ONCE), 0)
    for path in paths:
        rows = pq.read_table(path, columns=["pair_id", "messages", "response", "pool", "status"], filesystem=fs)
        for row in rows.filter(pc.equal(rows["status"], OK)).to_pylist():
            try:
                pair = encode(tokenizer, row["messages"], row["response"], student, train, end)
            except TemplateRefused:
                counts["template_refused"] += 1
                continue
            if not pair.in_loss:
                counts["over_length"] += 1
                continue
            encoded.append(
                {
                    "pair_id": row["pair_id"],
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
    parts = []
    for epoch in range(epochs):
        path = f"{target}-{epoch:03d}.parquet"
        by_chunk: dict[int, list[dict[str, Any]]] = {}
        for row in encoded:
            key = order_key(row["pair_id"], random_seed, epoch)
            by_chunk.setdefault(int(key[:12], 16) * n_chunks >> 48, []).append({**row, "key": key})
        with pq.ParquetWriter(path, _ENCODED, filesystem=fs) as writer:
            for chunk in by_chunk.values():
                writer.write_table(pa.Table.from_pylist(chunk, schema=_ENCODED), row_group_size=len(chunk))
        parts.append(_Part(path, {chunk: group for group, chunk in enumerate(by_chunk)}))
    return counts, parts


def _read_chunk(fs: pafs.FileSystem, sources: Sequence[tuple[str, int]], columns: list[str] | None) -> pa.Table:
    tables = []
    for path, row_group in sources:
        with pq.ParquetFile(path, filesystem=fs) as file:
            tables.append(file.read_row_group(row_group, columns=columns))
    table = pa.concat_tables(tables) if tables else _ENCODED.empty_table()
    return table.sort_by("key")


def _bins(chunk: pa.Table, capacity: int) -> list[list[int]]:
    return best_fit(pc.list_value_length(chunk["input_ids"]).to_pylist(), capacity)


def _count_sequences(fs: pafs.FileSystem, sources: Sequence[tuple[str, int]], capacity: int) -> int:
    return len(_bins(_read_chunk(fs, sources, ["key", "input_ids"]), capacity))


def _write_sequences(
    fs: pafs.FileSystem, sources: Sequence[tuple[str, int]], capacity: int, start: int, target: str
) -> None:
    chunk = _read_chunk(fs, sources, None)
    ids, labels, pair_ids = (chunk[name].to_pylist() for name in ("input_ids", "labels", "pair_id"))
    sequences = [
        {
            "seq_index": start + offset,
            "input_ids": [token for member in members for token in ids[member]],
            "labels": [label for member in members for label in labels[member]],
            "position_ids": [position for member in members for position in range(len(ids[member]))],
            "pair_ids": [pair_ids[member] for member in members],
        }
        for offset, members in enumerate(_bins(chunk, capacity))
    ]
    pq.write_table(conform(sequences, PACKED), target, filesystem=fs, row_group_size=SEQUENCES_PER_ROW_GROUP)
