"""Reads a user's rows as rows of a table of the run: derives missing columns and filters unusable rows.

rows = read_own_rows(files, SCORED, needed=("messages", "response"), generated=False, transform_cpus=0.1)
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import ray.data

from tapir_ray.data.chat_turns import ASSISTANT, USER, Turn, read_turns, split_answer
from tapir_ray.data.column_reading import NO_LOSS
from tapir_ray.data.formats import NOT_TRAINED, Malformed, Unsupported, object_of
from tapir_ray.data.readers import Unreadable, read_raw
from tapir_ray.data.schemas import (
    FILTERED,
    GENERATED,
    HOLDOUT,
    OK,
    SEED,
    STATUSES,
    draw_id,
    instruction_id,
    pair_id,
)
from tapir_ray.data.storage import is_remote
from tapir_ray.data.values import one_line, plain, to_json
from tapir_ray.transforms.ingest import CONVERSATION_ID, FILE_BITS, POSITION, ROWS_PER_BLOCK, unread

HAS_SPLIT = pa.field("has_split", pa.bool_())
SPLITS = (SEED, HOLDOUT, GENERATED)
POOLS = ("hard", "easy")
"""Pools of a generated row."""
PYTHON: dict[pa.DataType, tuple[type, ...]] = {pa.string(): (str,), pa.float64(): (float, int), pa.int64(): (int,)}
LARGEST = 1 << 63


def read_own_rows(
    files: Sequence[str], schema: pa.Schema, needed: Sequence[str], generated: bool, transform_cpus: float
) -> ray.data.Dataset:
    """Returns the rows of all files by `completed`, as `with_places(schema)`. Lazy."""
    items = [
        # Workers have another working directory than the driver.
        {"file": file if is_remote(file) else os.path.join(os.getcwd(), file), "start": at << FILE_BITS}
        for at, file in enumerate(files)
    ]
    read = functools.partial(_read, schema=with_places(schema), needed=tuple(needed), generated=generated)
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        read, batch_size=1, batch_format="pyarrow", num_cpus=transform_cpus
    )


def with_places(schema: pa.Schema) -> pa.Schema:
    """Returns the schema with `position`, `conversation_id` and `has_split`, which only rows as read have."""
    return pa.schema([*schema, POSITION, CONVERSATION_ID, HAS_SPLIT])


def _read(batch: pa.Table, schema: pa.Schema, needed: tuple[str, ...], generated: bool) -> Iterator[pa.Table]:
    for item in batch.to_pylist():
        rows, position = read_raw(item["file"]), item["start"]
        while block := list(islice(rows, ROWS_PER_BLOCK)):
            made = [completed(raw, place, schema, needed, generated) for place, raw in block]
            numbered = [{**row, "position": at} for at, row in enumerate(made, start=position)]
            yield pa.Table.from_pylist(numbered, schema=schema)
            position += len(block)
    # A file without rows must still give a block with the schema.
    yield schema.empty_table()


def completed(raw: Any, place: str, schema: pa.Schema, needed: Sequence[str], generated: bool) -> dict[str, Any]:
    """Returns a user's row as a row of `schema`, with ids, status, split, round, difficulty, copy and pool derived.

    `instruction_id` is always that of the messages, and `source` the place; a given source goes to `meta`. Without the
    column `response` the answer is the last turn of `messages`. An ok row is filtered for one of three reasons:

    - `malformed` or `unsupported`, with its place, if it cannot be used;
    - `no_COLUMN`, if a column in `needed` is empty;
    - `holdout`, if it is of that split in a table to train on.
    """
    turns: list[Turn] | None = None
    try:
        raw = object_of(raw)
        row = _typed(raw, schema)
        row["status"], given = row.get("status") or OK, raw.get("split")
        if row["status"] not in STATUSES:
            raise Malformed(f"status is {row['status']!r}; it must be {', '.join(STATUSES)}")
        if given not in (None, *SPLITS):
            raise Malformed(f"split is {given!r}; it must be {', '.join(SPLITS)}")
        if generated and row.get("pool") not in (None, *POOLS):
            raise Malformed(f"pool is {row['pool']!r}; it must be {' or '.join(POOLS)}")
        turns = _turns(raw, row["status"])
        if row["status"] == OK and turns and turns[-1].role == ASSISTANT:
            row |= _own_answer(row, turns.pop(), schema)
        row["messages"] = None if turns is None else [turn.message for turn in turns]
        row[NO_LOSS] = _no_loss(raw, turns or [])
    except (Malformed, Unsupported, Unreadable) as error:
        row, given = unread(place, error), None
    derived: dict[str, Any] = {
        "source": place,
        "split": given or (GENERATED if generated else SEED),
        "has_split": given is not None,
        "round": 1 if generated else row.get("round") or 0,
        "copy": row.get("copy") or 0,
        "pool": row.get("pool") or "hard",
        "meta": _meta(raw, schema, turns or []),
        **_ids(row, place),
    }
    teacher, student = row.get("teacher_score"), row.get("student_score")
    if row.get("difficulty") is None and teacher is not None and student is not None:
        derived["difficulty"] = teacher - student
    row = {name: value for name, value in {**row, **derived}.items() if name in schema.names}
    empty = [name for name in needed if row.get(name) is None]
    if row["status"] == OK and empty:
        row |= {"status": FILTERED, "reason": f"no_{empty[0]}"}
    if row["status"] == OK and given == HOLDOUT and (generated or "split" not in schema.names):
        row |= {"status": FILTERED, "reason": HOLDOUT}
    return row


def _typed(raw: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Returns the scalar columns of the schema; NaN and a blank response become null. Raises Malformed for a wrong
    type."""
    row: dict[str, Any] = {}
    for column in schema:
        value = raw.get(column.name)
        if column.type not in PYTHON or column.name == "meta":
            continue
        if isinstance(value, float) and value != value:  # NaN, as pandas writes a missing value
            value = None
        # pandas turns integers with a missing value into floats.
        if column.type == pa.int64() and isinstance(value, float) and value.is_integer():
            value = int(value)
        fits = isinstance(value, PYTHON[column.type]) and not isinstance(value, bool)
        if value is not None and not (fits and (not isinstance(value, int) or abs(value) < LARGEST)):
            raise Malformed(f"the column {column.name} is not of type {column.type} (it is {str(value)[:40]!r})")
        row[column.name] = float(value) if column.type == pa.float64() and value is not None else value
    if row.get("task") is not None:
        row["task"] = one_line(row["task"]) or None
    if (row.get("response") or "").strip():
        row["response"], thoughts = split_answer(row["response"], row.get("reasoning"))
        row["reasoning"] = thoughts if "reasoning" in schema.names else None
    if not (row.get("response") or "").strip():
        row["response"] = None
    return row


def _turns(raw: dict[str, Any], status: str) -> list[Turn] | None:
    """Returns the turns of `messages`. A row that is not ok may have any messages; None if they are no turns."""
    if status == OK:
        turns = read_turns(raw.get("messages"), "messages")
        if all(turn.role != USER for turn in turns):
            raise Malformed("no user turn")
        return turns
    found = raw.get("messages")
    whole = isinstance(found, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in found
    )
    return [Turn(turn["role"], turn["content"]) for turn in found] if found and whole else None


def _own_answer(row: dict[str, Any], answer: Turn, schema: pa.Schema) -> dict[str, Any]:
    """Returns the response of a row whose messages are the whole conversation, as in an export."""
    if row.get("response") is not None:
        raise Malformed("messages ends with a turn of the assistant, and the column response has another answer")
    if not answer.learn:
        raise Unsupported(NOT_TRAINED)
    thoughts = {"reasoning": row.get("reasoning") or answer.reasoning} if "reasoning" in schema.names else {}
    return {"response": answer.content if answer.content.strip() else None, **thoughts}


def _no_loss(raw: dict[str, Any], turns: Sequence[Turn]) -> list[int] | None:
    """Returns positions of the answers to mask from the loss: those in `masked_turns`, and those of weight 0."""
    given = raw.get(NO_LOSS)
    places = given if isinstance(given, list) else []
    return [at for at, turn in enumerate(turns) if turn.role == ASSISTANT and (not turn.learn or at in places)] or None


def _ids(row: dict[str, Any], place: str) -> dict[str, str]:
    known = row.get("instruction_id") or instruction_id([{"role": "source", "content": place}])
    row_id = instruction_id(row["messages"]) if row.get("messages") else known
    return {
        "instruction_id": row_id,
        "conversation_id": row.get("conversation_id") or row_id,
        "pair_id": row.get("pair_id") or pair_id(row_id, row.get("copy") or 0),
        "draw_id": row.get("draw_id") or draw_id(1, row_id, 0),
    }


def _meta(raw: Any, schema: pa.Schema, turns: Sequence[Turn]) -> str | None:
    """Returns JSON of the column `meta`, of `source`, and of all columns that the schema does not have."""
    if not isinstance(raw, dict):
        return None
    try:
        raw = plain(raw)
        given = raw.get("meta")
        if isinstance(given, str):
            given = _loaded(given)
    except ValueError:
        return None
    whole = given if isinstance(given, dict) else {} if given is None else {"meta": given}
    source = {} if raw.get("source") is None else {"source": raw["source"]}
    others = {name: raw[name] for name in raw if name not in schema.names}
    fields = [
        {"turn": at, **turn.others, **({"reasoning": turn.reasoning} if turn.reasoning else {})}
        for at, turn in enumerate(turns)
        if turn.others or turn.reasoning
    ]
    return to_json({**source, **others, **({"turn_fields": fields} if fields else {}), **whole})


def _loaded(text: str) -> Any:
    """Returns the JSON object in a text, or the text itself. Raises ValueError for one that is nested too deeply."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return plain(value) if isinstance(value, dict) else text
