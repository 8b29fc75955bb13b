"""Ingest: turns source files into conversations with ids. Every row of a file gives at least one row.

rows = parse_sources(list_files("alpaca_9k.jsonl", "seed_data.path"), config.seed_data, transform_cpus=0.1)
rows = mark_duplicates(rows, duplicate_positions(files, fs))
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import ray
import ray.data
import xxhash

from tapir_ray.config import SeedData
from tapir_ray.data.formats import Conversation, Malformed, Unsupported, parse
from tapir_ray.data.readers import Unreadable, read_raw
from tapir_ray.data.schemas import FILTERED, INSTRUCTIONS, OK, SEED, instruction_id, marked
from tapir_ray.data.values import one_line, plain, to_json
from tapir_ray.transforms.column_notes import NOT_READ, note

POSITION = pa.field("position", pa.int64())
CONVERSATION_ID = pa.field("conversation_id", pa.string())
COLUMNS = pa.field("columns", pa.string())
PARSED = pa.schema([*INSTRUCTIONS, POSITION, CONVERSATION_ID, COLUMNS])
"""`position` orders rows as they were read; of equal rows the first is kept. `conversation_id` is the same for all
turns of a conversation: the instruction_id of the longest one. `columns` is JSON by `column_notes.note`; if a row of a
file gives several rows, only the first has it."""

FILE_BITS = 40
"""A position is the number of a file, shifted left by FILE_BITS, plus the number of a row in it."""
ParseRow = Callable[[Any], list[Conversation]]
ROWS_PER_BLOCK = 2048
LONGEST_REASON = 500
IDS_PER_TASK = 2_000_000
"""Ids that one task holds, as 24 bytes each: 48 MB."""
PLACED = np.dtype([("high", np.uint64), ("low", np.uint64), ("rank", np.int64)])
"""128-bit hash of an id, and its rank: the position of its row, plus LACKING if the preferred column is null."""
LACKING = 1 << 62
"""Above every position, so that a row with a value in the preferred column always ranks first."""


def parse_sources(
    files: Sequence[str], seed_data: SeedData, transform_cpus: float, parse_row: ParseRow | None = None
) -> ray.data.Dataset:
    """Returns the conversations of all files, schema PARSED. Lazy. `parse_row` replaces `formats.parse`.

    Unusable rows are filtered. The reason is `malformed: file:line: …` for a row that violates its format,
    `unsupported: …` for one that cannot be represented, and `unreadable: …` for the end of a broken file. An
    instruction without an answer has a null response.
    """
    parse_row = parse_row or functools.partial(
        parse, format=seed_data.format, turns=seed_data.turns, columns=seed_data.mapped
    )
    # With a limit one task reads the files in order, since the limit counts rows over all of them.
    groups = [list(files)] if seed_data.limit else [[file] for file in files]
    items = [{"files": group, "start": index << FILE_BITS} for index, group in enumerate(groups)]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        functools.partial(_parse_group, seed_data=seed_data, parse_row=parse_row),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=transform_cpus,
    )


def _parse_group(batch: pa.Table, seed_data: SeedData, parse_row: ParseRow) -> Iterator[pa.Table]:
    group = batch.to_pylist()[0]
    rows: list[dict[str, Any]] = []
    position, read = group["start"], 0
    for file in group["files"]:
        for place, raw in read_raw(file, seed_data.revision):
            if seed_data.limit is not None and read == seed_data.limit:
                break
            read += 1
            for row in parsed_rows(raw, place, seed_data, parse_row):
                rows.append({**row, "position": position})
                position += 1
            if len(rows) >= ROWS_PER_BLOCK:
                yield pa.Table.from_pylist(rows, schema=PARSED)
                rows = []
    yield pa.Table.from_pylist(rows, schema=PARSED)


def parsed_rows(raw: Any, place: str, seed_data: SeedData, parse_row: ParseRow = parse) -> list[dict[str, Any]]:
    """Returns the rows (PARSED without `position`) of one row of a file: at least one, even if it is unusable."""
    base = {"split": SEED, "source": place, "license": seed_data.license, "round": 0, "status": OK}
    try:
        conversations = parse_row(raw)
    except (Malformed, Unsupported, Unreadable) as error:
        return [{**base, **unread(place, error), "meta": _raw_meta(raw), COLUMNS.name: NOT_READ}]
    ids = [instruction_id(conversation.messages) for conversation in conversations]
    return [
        {
            **base,
            "instruction_id": row_id,
            "conversation_id": ids[-1],
            "messages": conversation.messages,
            "response": conversation.response,
            "task": _task(conversation.meta, seed_data.task_column),
            "reasoning": conversation.reasoning,
            "masked_turns": list(conversation.masked_turns) or None,
            "meta": to_json(conversation.meta),
            COLUMNS.name: note(raw, conversation.unused, seed_data) if at == 0 else None,
        }
        for at, (row_id, conversation) in enumerate(zip(ids, conversations, strict=True))
    ]


def _raw_meta(raw: Any) -> str | None:
    """Returns the columns of an unusable row as JSON; None if they are not JSON values."""
    try:
        return to_json(plain(raw)) if isinstance(raw, dict) else None
    except ValueError:
        return None


def unread(place: str, error: Malformed | Unsupported | Unreadable) -> dict[str, Any]:
    """Returns the fields of an unusable row: an id made from its place, and the reason."""
    row_id = instruction_id([{"role": "source", "content": place}])
    reason = f"{error.reason}: {one_line(place)}: {one_line(error)[:LONGEST_REASON]}"
    return {"instruction_id": row_id, "conversation_id": row_id, "status": FILTERED, "reason": reason}


def _task(meta: dict[str, Any], column: str | None) -> str | None:
    """Returns the task of a row, on one line since it is printed in tables and in prompts; None without a value."""
    value = meta.get(column) if column else None
    return None if value is None else one_line(value) or None


def duplicate_positions(
    files: Sequence[str],
    fs: pafs.FileSystem,
    transform_cpus: float,
    key: str = "instruction_id",
    preferred: str | None = None,
) -> np.ndarray:
    """Returns the sorted positions (int64) of all ok rows that repeat the `key` of another.

    Of equal rows the first with a value in the column `preferred` is kept, else the first. Every file is read once; its
    ids are partitioned by hash, and one task looks for repeats in each partition.
    """
    rows = pads.dataset(list(files), filesystem=fs, format="parquet").count_rows()
    tasks = 1 + rows // IDS_PER_TASK
    place: Any = ray.remote(num_cpus=transform_cpus, num_returns=tasks + 1)(_placed)
    find: Any = ray.remote(num_cpus=transform_cpus)(_repeated)
    shares = [place.remote(list(files[at::tasks]), fs, key, preferred, tasks) for at in range(min(tasks, len(files)))]
    found = ray.get([find.remote(*(share[part] for share in shares)) for part in range(tasks)])
    return np.sort(np.concatenate(found))


def _placed(files: list[str], fs: pafs.FileSystem, key: str, preferred: str | None, parts: int) -> list[np.ndarray]:
    """Returns PLACED of the files' ok rows by partition, and an empty array at the end."""
    # The empty array keeps `num_returns` above 1: with 1 Ray returns one reference and not a list.
    dataset = pads.dataset(files, filesystem=fs, format="parquet")
    found = [np.zeros(0, PLACED)]
    columns = {name: pads.field(name) for name in (key, "position")}
    if preferred is not None:
        columns["lacks"] = pads.field(preferred).is_null()
    for batch in dataset.to_batches(columns=columns, filter=pads.field("status") == OK):
        placed = np.zeros(len(batch), PLACED)
        # 128 bits, so that different ids practically never collide and no row is lost by a collision.
        digests = b"".join([xxhash.xxh3_128_digest(value.encode()) for value in batch[key].to_pylist()])
        placed["high"], placed["low"] = np.frombuffer(digests, np.uint64).reshape(-1, 2).T
        placed["rank"] = batch["position"].to_numpy()
        if preferred is not None:
            placed["rank"] += LACKING * batch["lacks"].to_numpy(zero_copy_only=False)
        found.append(placed)
    whole = np.concatenate(found)
    part = whole["low"] % np.uint64(parts)
    by_part = np.argsort(part, kind="stable")
    ends = np.searchsorted(part[by_part], np.arange(1, parts + 1, dtype=np.uint64))
    return np.split(whole[by_part], ends)


def _repeated(*shares: np.ndarray) -> np.ndarray:
    """Returns the positions of all rows except the one of lowest rank for each hash."""
    whole = np.concatenate(shares)
    # `lexsort` takes its last key as the primary one.
    whole = whole[np.lexsort((whole["rank"], whole["low"], whole["high"]))]
    repeats = (whole["high"][1:] == whole["high"][:-1]) & (whole["low"][1:] == whole["low"][:-1])
    return whole["rank"][1:][repeats] & ~LACKING


def mark_duplicates(batch: pa.Table, positions: np.ndarray) -> pa.Table:
    """Marks every row at one of the sorted `positions` as `duplicate`."""
    mine = batch["position"].to_numpy()
    # Binary search, because `np.isin` would scan all positions for each batch.
    hit = np.searchsorted(positions, mine, "left") < np.searchsorted(positions, mine, "right")
    return marked(batch, pa.array(hit), "duplicate")
