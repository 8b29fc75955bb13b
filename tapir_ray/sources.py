"""Reading instruction data: rows of a file, folder or hub dataset become conversations.

    for position, parsed in read(["pairs.jsonl"], format="auto", turns="last"): ...

Formats: Alpaca (instruction, input, output), OpenAI `messages`, ShareGPT `conversations`, prompt-only rows; stored as
JSON, JSONL, Parquet, a saved HF dataset folder, or under a HF hub id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tapir_ray.errors import InputError
from tapir_ray.records import Message

JSON_SUFFIXES = (".jsonl", ".json")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
PROMPT_KEYS = ("prompt", "question", "query", "text")
ALPACA_KEYS = ("instruction", "input", "output", "response")
TEXT_KEYS = {"messages", "conversations", *ALPACA_KEYS, *PROMPT_KEYS}


class Malformed(ValueError):
    """A row that is not of its format; the text says what is missing."""


class Unsupported(ValueError):
    """A row that is well-formed but cannot be represented (tool calls, images); the text is the filter's reason."""


@dataclass(frozen=True)
class Conversation:
    """The context, the assistant turn to learn (None for a prompt-only row), and the other columns of the row."""

    messages: list[Message]
    response: str | None
    meta: dict[str, Any] = field(default_factory=dict)


def list_files(path: str) -> list[str]:
    """The data files at a path, sorted: the file itself, or those of a folder; a HF folder or hub id as it is.

    Raises InputError where there is nothing to read.
    """
    location = Path(path)
    if location.is_file():
        if location.suffix not in (*JSON_SUFFIXES, ".parquet"):
            raise InputError(f"seed_data.path {path}: the file must end in .json, .jsonl or .parquet")
        return [path]
    if location.is_dir():
        if (location / "dataset_info.json").exists() or (location / "dataset_dict.json").exists():
            return [path]
        found = sorted(str(entry) for entry in location.iterdir() if entry.suffix in (*JSON_SUFFIXES, ".parquet"))
        if not found:
            raise InputError(f"seed_data.path {path}: the folder has no .json, .jsonl or .parquet file")
        return found
    if path.count("/") == 1 and not path.startswith((".", "/", "~")):
        return [path]
    raise InputError(f"seed_data.path {path}: no such file or folder, and not a hub id (owner/name)")


def read_raw(path: str, revision: str | None = None) -> Iterator[tuple[str, Any]]:
    """The rows of one source with their place (`file:line`); a line that is not JSON comes as an exception object."""
    suffix = Path(path).suffix
    name = Path(path).name
    if suffix == ".jsonl":
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{name}:{number}", _loads(line)
    elif suffix == ".json":
        content = _loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise InputError(f"seed_data.path {path}: a .json file must hold a list of rows (JSON lines end in .jsonl)")
        for number, row in enumerate(content, start=1):
            yield f"{name}:row {number}", row
    elif suffix == ".parquet":
        import pyarrow.parquet as pq

        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}:row {number}", row
    else:
        import datasets

        local = Path(path).is_dir()
        dataset = datasets.load_from_disk(path) if local else datasets.load_dataset(path, revision=revision)
        if isinstance(dataset, datasets.DatasetDict):
            dataset = dataset["train"] if "train" in dataset else next(iter(dataset.values()))
        for number, row in enumerate(dataset, start=1):
            yield f"{name}:row {number}", row


def parse(row: Any, format: str = "auto", turns: str = "last") -> list[Conversation]:
    """The conversations of one row: one, or with `turns="all"` one for each assistant turn.

    Raises Malformed or Unsupported.
    """
    if isinstance(row, Exception):
        raise Malformed(f"not valid JSON ({row})")
    if not isinstance(row, dict):
        raise Malformed("not an object with named columns")
    meta = {key: value for key, value in row.items() if key not in TEXT_KEYS}
    kind = _kind(row) if format in ("auto", "parquet", "hf") else format
    if kind == "alpaca":
        instruction = _text(row, "instruction")
        extra = row.get("input") or ""
        content = f"{instruction}\n\n{extra}" if extra else instruction
        response = row.get("output") if row.get("output") is not None else row.get("response")
        return [Conversation([{"role": "user", "content": content}], response or None, meta)]
    if kind == "prompt":
        key = next(key for key in PROMPT_KEYS if key in row)
        return [Conversation([{"role": "user", "content": _text(row, key)}], row.get("response") or None, meta)]
    return _from_turns(_turns(row, kind), turns, meta)


def _kind(row: dict[str, Any]) -> str:
    if row.get("messages") is not None:
        return "messages"
    if row.get("conversations") is not None:
        return "sharegpt"
    if row.get("instruction") is not None:
        return "alpaca"
    if any(key in row for key in PROMPT_KEYS):
        return "prompt"
    raise Malformed(f"no column instruction, messages, conversations or prompt (it has {', '.join(row) or 'none'})")


def _turns(row: dict[str, Any], kind: str) -> list[Message]:
    name, role_key, text_key = (
        ("messages", "role", "content") if kind == "messages" else ("conversations", "from", "value")
    )
    raw = row.get(name)
    if not isinstance(raw, list) or not raw:
        raise Malformed(f"{name} is not a list of turns")
    turns = []
    for turn in raw:
        if not isinstance(turn, dict):
            raise Malformed(f"a turn of {name} is not an object")
        role, content = turn.get(role_key), turn.get(text_key)
        if role in ("tool", "function", "observation", "function_call") or turn.get("tool_calls"):
            raise Unsupported("tool_calls")
        if isinstance(content, list):
            raise Unsupported("not_text")
        if role not in ROLES or not isinstance(content, str):
            raise Malformed(f"a turn of {name} has role {role!r} and content of type {type(content).__name__}")
        turns.append({"role": ROLES[role], "content": content})
    return turns


def _from_turns(turns: list[Message], which: str, meta: dict[str, Any]) -> list[Conversation]:
    if all(turn["role"] != "user" for turn in turns):
        raise Malformed("no user turn")
    if turns[-1]["role"] != "assistant":
        return [Conversation(turns, None, meta)]
    ends = [index for index, turn in enumerate(turns) if turn["role"] == "assistant" and index > 0]
    ends = [index for index in ends if any(turn["role"] == "user" for turn in turns[:index])]
    chosen = ends if which == "all" else ends[-1:]
    return [Conversation(turns[:index], turns[index]["content"] or None, meta) for index in chosen]


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise Malformed(f"{key} is empty or not text")
    return value


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return error
