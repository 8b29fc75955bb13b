"""Formats of an exported row, each an object that `data/formats.parse` reads back as the same conversation.

    FORMATS["alpaca"].write(row)          # {"instruction": …, "input": "", "output": …, "instruction_id": …}
    unlike(row, written)                  # None, or why the row would be read back as another

A row that a format cannot hold is left out of the export with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tapir_ray.data.chat_turns import ASSISTANT, SYSTEM, USER, Malformed, Unsupported
from tapir_ray.data.formats import parse
from tapir_ray.data.schemas import MESSAGES

Row = dict[str, Any]
SHAREGPT_ROLES = {SYSTEM: "system", USER: "human", ASSISTANT: "gpt"}
ABOUT = ("task", "source", "license", "teacher_model", "style", "table")
"""Columns of an exported row that say where it comes from."""
TABLE = pa.schema(
    [
        ("instruction_id", pa.string()),
        ("messages", MESSAGES),
        ("masked_turns", pa.list_(pa.int64())),
        ("reasoning", pa.string()),
        *((name, pa.string()) for name in ABOUT),
    ]
)
"""Columns of `parquet` and `hf`; the answer is the last turn of `messages`."""
PAIRS = pa.schema(
    [
        ("instruction_id", pa.string()),
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
        ("chosen_by", pa.string()),
        ("scored_by", pa.string()),
        *((name, pa.string()) for name in ABOUT),
    ]
)
"""Columns of `preference`. `chosen_by` is `teacher` or `student`."""
TURNS, MASKED, OTHER_TEXT = "turns", "masked turns", "text"
"""Parts of a row that a format may not hold."""


@dataclass(frozen=True)
class Format:
    """Format of an export."""

    name: str
    write: Callable[[Row], Row | None]
    """Returns the object of a row; None if the format has no place for its turns."""
    suffix: str
    """Suffix of its files: `.jsonl`, `.parquet`; empty for a dataset saved by HF datasets."""
    schema: pa.Schema | None = None
    """Columns of a table; None for JSON lines."""

    @property
    def files(self) -> str | None:
        """Pattern of its files in the folder of the export."""
        return f"data/*{self.suffix}" if self.suffix else None


def conversation(row: Row) -> list[dict[str, str]]:
    """Returns the whole conversation, with the answer as its last turn."""
    return [*row["messages"], {"role": ASSISTANT, "content": row["response"]}]


def _about(row: Row) -> Row:
    return {name: row[name] for name in ABOUT if row.get(name) is not None}


def alpaca(row: Row) -> Row | None:
    """Returns the last question as `instruction`, and earlier turns as `system` and `history`, a list of pairs."""
    turns = [(turn["role"], turn["content"]) for turn in row["messages"]]
    system = turns.pop(0)[1] if turns[0][0] == SYSTEM else None
    *earlier, (_, asked) = turns
    pairs = list(zip(earlier[::2], earlier[1::2], strict=False))
    roles = [role for role, _ in turns]
    if roles != [*(USER, ASSISTANT) * len(pairs), USER]:
        return None
    return {
        "instruction": asked,
        "input": "",
        "output": row["response"],
        **({"system": system} if system is not None else {}),
        **({"history": [[question, answer] for (_, question), (_, answer) in pairs]} if pairs else {}),
        "instruction_id": row["instruction_id"],
        **_about(row),
    }


def openai(row: Row) -> Row:
    """Returns `messages` alone: OpenAI's fine-tuning refuses other columns. `weight: 0` masks an earlier answer."""
    return {"messages": _weighted(row, conversation(row))}


def sharegpt(row: Row) -> Row:
    """Returns `conversations` with the turns `human` and `gpt`."""
    turns = [{"from": SHAREGPT_ROLES[turn["role"]], "value": turn["content"]} for turn in conversation(row)]
    return {"id": row["instruction_id"], "conversations": _weighted(row, turns), **_about(row)}


def table(row: Row) -> Row:
    """Returns a row of TABLE."""
    return {**{name: row.get(name) for name in TABLE.names}, "messages": conversation(row)}


def _weighted(row: Row, turns: list[Row]) -> list[Row]:
    masked = set(row.get("masked_turns") or ())
    return [{**turn, "weight": 0} if at in masked else turn for at, turn in enumerate(turns)]


FORMATS = {
    one.name: one
    for one in (
        Format("alpaca", alpaca, ".jsonl"),
        Format("openai", openai, ".jsonl"),
        Format("sharegpt", sharegpt, ".jsonl"),
        Format("parquet", table, ".parquet", TABLE),
        Format("hf", table, "", TABLE),
        # Written by `preference.pairs`.
        Format("preference", lambda row: row, ".parquet", PAIRS),
    )
}
PREFERENCE = "preference"


def unlike(row: Row, written: Row | None) -> str | None:
    """Returns the part of a row that the project's reader would not find again in its object; None if it finds all."""
    if written is None:
        return TURNS
    try:
        (found,) = parse(written)
    except (Malformed, Unsupported, ValueError):
        return OTHER_TEXT
    if found.messages != row["messages"] or found.response != row["response"]:
        return OTHER_TEXT
    return None if list(found.masked_turns) == sorted(row.get("masked_turns") or ()) else MASKED
