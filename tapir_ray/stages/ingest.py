"""Source files → conversations with ids: one row for every row read, whatever became of it.

rows = parse_sources(list_files("alpaca_9k.jsonl"), config.seed_data, stage_cpus=0.1)
rows = mark_duplicates(rows, duplicate_positions(files, fs))
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import ray
import ray.data

from tapir_ray.config import SeedData
from tapir_ray.records import FILTERED, INSTRUCTIONS, OK, SEED, instruction_id, marked
from tapir_ray.sources import Malformed, Unsupported, parse, read_raw

POSITION = pa.field("position", pa.int64())
PARSED = pa.schema([*INSTRUCTIONS, POSITION])
"""`position` orders rows as they were read, so that of two equal rows the first stays."""

MALFORMED = "malformed"
ROWS_PER_BLOCK = 2048
IDS_PER_TASK = 1_000_000


def parse_sources(files: Sequence[str], seed_data: SeedData, stage_cpus: float) -> ray.data.Dataset:
    """The conversations of all files, schema PARSED.

    A row that is not of its format is `filtered` with the reason `malformed: file:line: what`, one that cannot be
    represented with `unsupported: what`; an instruction without an answer keeps a null response.
    """
    # With a limit the files are read in order by one task; without, each by its own.
    groups = [list(files)] if seed_data.limit else [[file] for file in files]
    items = [{"files": group, "start": index << 40} for index, group in enumerate(groups)]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        functools.partial(_parse_group, seed_data=seed_data), batch_size=1, batch_format="pyarrow", num_cpus=stage_cpus
    )


def _parse_group(batch: pa.Table, seed_data: SeedData) -> Iterator[pa.Table]:
    group = batch.to_pylist()[0]
    rows: list[dict[str, Any]] = []
    position, read = group["start"], 0
    for file in group["files"]:
        for place, raw in read_raw(file, seed_data.revision):
            if seed_data.limit is not None and read == seed_data.limit:
                break
            read += 1
            for row in _rows(raw, place, seed_data):
                rows.append({**row, "position": position})
                position += 1
            if len(rows) >= ROWS_PER_BLOCK:
                yield pa.Table.from_pylist(rows, schema=PARSED)
                rows = []
    yield pa.Table.from_pylist(rows, schema=PARSED)


def _rows(raw: Any, place: str, seed_data: SeedData) -> list[dict[str, Any]]:
    base = {"split": SEED, "source": place, "licence": seed_data.licence, "round": 0, "status": OK}
    try:
        conversations = parse(raw, seed_data.format, seed_data.turns)
    except (Malformed, Unsupported) as error:
        reason = MALFORMED if isinstance(error, Malformed) else "unsupported"
        unread = [{"role": "source", "content": place}]
        return [
            {
                **base,
                "instruction_id": instruction_id(unread),
                "status": FILTERED,
                "reason": f"{reason}: {place}: {error}",
            }
        ]
    return [
        {
            **base,
            "instruction_id": instruction_id(conversation.messages),
            "messages": conversation.messages,
            "response": conversation.response,
            "task": _task(conversation.meta, seed_data.task_column),
            "meta": json.dumps(conversation.meta, ensure_ascii=False, default=str, sort_keys=True),
        }
        for conversation in conversations
    ]


def _task(meta: dict[str, Any], column: str | None) -> str | None:
    value = meta.get(column) if column else None
    return None if value is None else str(value)


def duplicate_positions(files: Sequence[str], fs: pafs.FileSystem, stage_cpus: float) -> np.ndarray:
    """Positions, sorted, of the ok rows whose instruction_id an earlier position has: found in bounded parts by id."""
    rows = pads.dataset(list(files), filesystem=fs, format="parquet").count_rows()
    parts = max(1, -(-rows // IDS_PER_TASK))
    find = ray.remote(num_cpus=stage_cpus)(_duplicates_of_part)
    found = ray.get([find.remote(list(files), fs, part, parts) for part in range(parts)])
    return np.sort(np.concatenate(found))


def _duplicates_of_part(files: list[str], fs: pafs.FileSystem, part: int, parts: int) -> np.ndarray:
    kept = []
    scanner = pads.dataset(files, filesystem=fs, format="parquet").to_batches(
        columns=["instruction_id", "position"], filter=pads.field("status") == OK
    )
    for batch in scanner:
        mine = np.array(
            [int(row_id[:8], 16) % parts == part for row_id in batch["instruction_id"].to_pylist()], dtype=bool
        )
        kept.append(pa.Table.from_batches([batch]).filter(pa.array(mine)))
    table = pa.concat_tables(kept).sort_by([("instruction_id", "ascending"), ("position", "ascending")])
    ids = table["instruction_id"].combine_chunks()
    repeats = pc.equal(ids[1:], ids[:-1]) if len(ids) > 1 else pa.array([], pa.bool_())
    return table["position"].combine_chunks()[1:].filter(repeats).to_numpy(zero_copy_only=False)


def mark_duplicates(batch: pa.Table, positions: np.ndarray) -> pa.Table:
    """The batch with every row at one of `positions` filtered as `duplicate`."""
    return marked(batch, pa.array(np.isin(batch["position"].to_numpy(), positions)), "duplicate")
