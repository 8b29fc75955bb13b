"""Source files → conversations with ids: one row for every row read, whatever became of it.

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
"""`position` orders rows as they were read, which says which of two equal rows stays; `conversation_id` is the same
for all turns of a conversation: the instruction_id of the longest. `columns` is JSON, on the first row that comes of a
row of a file: which columns with text were used for nothing, and which that the config names were not there."""

FILE_BITS = 40
"""A position is a file's number, shifted by as many bits, plus the number of a row in it."""
ParseRow = Callable[[Any], list[Conversation]]
ROWS_PER_BLOCK = 2048
LONGEST_REASON = 500
IDS_PER_TASK = 2_000_000
"""Ids whose hashes and positions, 24 bytes each, one task holds."""
PLACED = np.dtype([("high", np.uint64), ("low", np.uint64), ("rank", np.int64)])
"""The 128-bit hash of an id, and the position of its row, plus LACKING where equal rows are preferred to it."""
LACKING = 1 << 62


def parse_sources(
    files: Sequence[str], seed_data: SeedData, transform_cpus: float, parse_row: ParseRow | None = None
) -> ray.data.Dataset:
    """The conversations of all files, schema PARSED; by `parse_row` in the place of `conversations.parse`.

    A row that is not of its format is `filtered` with the reason `malformed: file:line: what`, one that cannot be
    represented with `unsupported: …`, the end of a broken file with `unreadable: …`; an instruction without an answer
    keeps a null response.
    """
    parse_row = parse_row or functools.partial(
        parse, format=seed_data.format, turns=seed_data.turns, columns=seed_data.mapped
    )
    # With a limit the files are read in order by one task; without, each by its own.
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
    """The rows (PARSED but for `position`) that come of one row of a file: at least one, whatever it holds."""
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
    """All columns of a row that cannot be used, as far as they are JSON's."""
    try:
        return to_json(plain(raw)) if isinstance(raw, dict) else None
    except ValueError:
        return None


def unread(place: str, error: Malformed | Unsupported | Unreadable) -> dict[str, Any]:
    """What a row has instead of messages where it cannot be used: an id of its place, and the reason."""
    row_id = instruction_id([{"role": "source", "content": place}])
    reason = f"{error.reason}: {one_line(place)}: {one_line(error)[:LONGEST_REASON]}"
    return {"instruction_id": row_id, "conversation_id": row_id, "status": FILTERED, "reason": reason}


def _task(meta: dict[str, Any], column: str | None) -> str | None:
    """The value of the tasks' column on one line: it is shown in tables and asked for in prompts."""
    value = meta.get(column) if column else None
    return None if value is None else one_line(value) or None


def duplicate_positions(
    files: Sequence[str],
    fs: pafs.FileSystem,
    transform_cpus: float,
    key: str = "instruction_id",
    preferred: str | None = None,
) -> np.ndarray:
    """Positions, sorted, of all ok rows of the same `key` but one: the first that has a value in the column
    `preferred`, else the first.

    Every file is read once, its ids go by hash to bounded parts, and a task looks for repeats in one part.
    """
    rows = pads.dataset(list(files), filesystem=fs, format="parquet").count_rows()
    tasks = 1 + rows // IDS_PER_TASK
    place: Any = ray.remote(num_cpus=transform_cpus, num_returns=tasks + 1)(_placed)
    find: Any = ray.remote(num_cpus=transform_cpus)(_repeated)
    shares = [place.remote(list(files[at::tasks]), fs, key, preferred, tasks) for at in range(min(tasks, len(files)))]
    found = ray.get([find.remote(*(share[part] for share in shares)) for part in range(tasks)])
    return np.sort(np.concatenate(found))


def _placed(files: list[str], fs: pafs.FileSystem, key: str, preferred: str | None, parts: int) -> list[np.ndarray]:
    """PLACED of the files' ok rows, by part; none at the end (a task of one return gives no list)."""
    dataset = pads.dataset(files, filesystem=fs, format="parquet")
    found = [np.zeros(0, PLACED)]
    columns = {name: pads.field(name) for name in (key, "position")}
    if preferred is not None:
        columns["lacks"] = pads.field(preferred).is_null()
    for batch in dataset.to_batches(columns=columns, filter=pads.field("status") == OK):
        placed = np.zeros(len(batch), PLACED)
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
    """Positions of all rows of each hash but that of the lowest rank."""
    whole = np.concatenate(shares)
    whole = whole[np.lexsort((whole["rank"], whole["low"], whole["high"]))]
    repeats = (whole["high"][1:] == whole["high"][:-1]) & (whole["low"][1:] == whole["low"][:-1])
    return whole["rank"][1:][repeats] & ~LACKING


def mark_duplicates(batch: pa.Table, positions: np.ndarray) -> pa.Table:
    """The batch with every row at one of `positions`, which are sorted, filtered as `duplicate`."""
    mine = batch["position"].to_numpy()
    # By search: `np.isin` would go through all positions for each batch.
    hit = np.searchsorted(positions, mine, "left") < np.searchsorted(positions, mine, "right")
    return marked(batch, pa.array(hit), "duplicate")
