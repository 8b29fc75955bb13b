"""Reading instruction data: rows of a file, folder or hub dataset become conversations.

    for place, row in read_raw("pairs.jsonl"):
        conversations = parse(row, format="auto", turns="last")

Formats: Alpaca (instruction, input, output), OpenAI `messages`, ShareGPT `conversations`, prompt-only rows; stored as
JSON, JSONL or Parquet, here or on s3 or gs, as a saved HF dataset folder, or under a HF hub id.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from tapir_ray.errors import InputError
from tapir_ray.records import Message
from tapir_ray.storage import is_remote, refuse_secret, uri_in

SUFFIXES = (".jsonl", ".json", ".parquet")
FILE_SUFFIXES = (*SUFFIXES, ".csv", ".tsv", ".txt", ".gz", ".zst", ".zip", ".arrow", ".yaml")
"""A path that ends so is a file, never a hub id."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
PROMPT_KEYS = ("prompt", "question", "query", "text")
ALPACA_KEYS = ("instruction", "input", "output", "response")
TEXT_KEYS = {"messages", "conversations", "system", *ALPACA_KEYS, *PROMPT_KEYS}


class Malformed(ValueError):
    """A row that is not of its format; the text says what is missing."""

    reason = "malformed"


class Unsupported(ValueError):
    """A row that is well-formed but cannot be represented (tool calls, images); the text is the filter's reason."""

    reason = "unsupported"


class Unreadable(InputError):
    """A file that cannot be read to its end; the text says why."""

    reason = "unreadable"


@dataclass(frozen=True)
class Conversation:
    """The context, the assistant turn to learn (None for a prompt-only row), and the other columns of the row."""

    messages: list[Message]
    response: str | None
    meta: dict[str, Any] = field(default_factory=dict)


def list_files(path: str, key: str) -> list[str]:
    """The data files at a path, sorted: the file itself, or those of a folder; a HF folder or hub id as it is.

    Of a folder, names that begin with `_` or `.` are left out. Raises InputError, which names `key` and the path, where
    there is nothing to read.
    """
    if is_remote(path):
        refuse_secret(path)
        return _list_remote(path, key)
    location = Path(path)
    if location.is_file():
        if location.suffix not in SUFFIXES:
            raise InputError(f"{key} {path}: the file must end in .json, .jsonl or .parquet")
        return [path]
    if location.is_dir():
        if (location / "dataset_info.json").exists() or (location / "dataset_dict.json").exists():
            return [path]
        entries = (entry for entry in location.iterdir() if not entry.name.startswith(("_", ".")))
        found = sorted(str(entry) for entry in entries if entry.suffix in SUFFIXES)
        if not found:
            raise InputError(f"{key} {path}: the folder has no .json, .jsonl or .parquet file")
        return found
    if HUB_ID.fullmatch(path) and location.suffix not in FILE_SUFFIXES and not location.parent.is_dir():
        return [path]
    raise InputError(f"{key} {path}: there is no such file or folder, and it is not a hub id (owner/name)")


def _list_remote(uri: str, key: str) -> list[str]:
    try:
        fs, path = pafs.FileSystem.from_uri(uri)
        info = fs.get_file_info(path.rstrip("/"))
        entries = fs.get_file_info(pafs.FileSelector(path)) if info.type == pafs.FileType.Directory else [info]
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{key} {uri}: cannot be read ({' '.join(str(error).split())})") from error
    files = [entry for entry in entries if entry.type == pafs.FileType.File]
    found = [entry for entry in files if entry.base_name.endswith(SUFFIXES) and entry.base_name[0] not in "_."]
    if not found:
        raise InputError(f"{key} {uri}: there is no .json, .jsonl or .parquet file")
    if info.type == pafs.FileType.File:
        return [uri]
    return sorted(uri_in(uri, quote(entry.base_name)) for entry in found)


def _open(path: str) -> BinaryIO:
    """A local file or URI, to read."""
    if not is_remote(path):
        return open(path, "rb")
    fs, place = pafs.FileSystem.from_uri(path)
    stream: Any = fs.open_input_file(place)
    return io.BufferedReader(stream)


def read_raw(path: str, revision: str | None = None) -> Iterator[tuple[str, Any]]:
    """The rows of one source with their place (`file:line`).

    What cannot be read comes as an exception object in a row's place: a line that is not JSON, and at the end, as
    Unreadable, a file or hub dataset that is broken or not there.
    """
    place = path.partition("?")[0] if is_remote(path) else path
    name, suffix = Path(unquote(place) if is_remote(path) else place).name, Path(place).suffix
    try:
        if suffix == ".jsonl":
            yield from _read_lines(path, name)
        elif suffix == ".json":
            yield from _read_list(path, name)
        elif suffix == ".parquet":
            yield from _read_parquet(path, name)
        else:
            yield from _read_dataset(path, name, revision)
    except Exception as error:
        # Whatever a library finds wrong with a file is the user's to mend, and a row says it without a traceback.
        yield name, Unreadable(f"cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]})")


def _read_lines(path: str, name: str) -> Iterator[tuple[str, Any]]:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{name}:{number}", _loads(line)


def _read_list(path: str, name: str) -> Iterator[tuple[str, Any]]:
    with _open(path) as file:
        content = _loads(file.read())
    if isinstance(content, Exception):
        line = getattr(content, "lineno", 1)
        yield f"{name}:{line}", Unreadable(f"the file is cut short or not JSON ({content})")
    elif isinstance(content, list):
        for number, row in enumerate(content, start=1):
            yield f"{name}:row {number}", row
    else:
        yield name, Unreadable("a .json file must hold a list of rows (JSON lines end in .jsonl)")


def _read_parquet(path: str, name: str) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    number = 0
    with _open(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}:row {number}", row


def _read_dataset(path: str, name: str, revision: str | None) -> Iterator[tuple[str, Any]]:
    import datasets

    dataset = datasets.load_from_disk(path) if Path(path).is_dir() else datasets.load_dataset(path, revision=revision)
    if isinstance(dataset, datasets.DatasetDict):
        dataset = dataset["train"] if "train" in dataset else next(iter(dataset.values()))
    for number, row in enumerate(dataset, start=1):
        yield f"{name}:row {number}", row


def parse(row: Any, format: str = "auto", turns: str = "last") -> list[Conversation]:
    """The conversations of one row: one, or with `turns="all"` one for each assistant turn and for an open last prompt.

    The row's column `system` is the system message of a conversation that begins with none. A blank response is none.
    Raises Malformed, Unsupported or Unreadable.
    """
    checked = object_of(row)
    meta = {key: value for key, value in checked.items() if key not in TEXT_KEYS}
    kind = _kind(checked) if format in ("auto", "parquet", "hf") else format
    if kind == "alpaca":
        extra = _optional(checked, "input")
        content = _text(checked.get("instruction"), "instruction") + (f"\n\n{extra}" if extra else "")
        response = _optional(checked, "output" if checked.get("output") is not None else "response")
    elif kind == "prompt":
        key = _prompt_key(checked)
        content = _text(checked.get(key), key)
        response = _optional(checked, "response")
    else:
        return _from_turns(_with_system(checked, turns_of(checked, kind)), turns, meta)
    return [Conversation(_with_system(checked, [{"role": "user", "content": content}]), response, meta)]


def parse_evaluation(row: Any) -> list[Conversation]:
    """What must not be trained on of an evaluation set's row, without responses.

    Of an MT-Bench question each of its `turns` on its own, of any other row its instruction, of a conversation the
    context of every turn. Raises Malformed, Unsupported or Unreadable.
    """
    checked = object_of(row)
    asked = checked.get("turns")
    if asked is None:
        kept = {key: value for key, value in checked.items() if key not in ("output", "response")}
        return parse(kept, turns="all")
    if not isinstance(asked, list) or not asked:
        raise Malformed("turns is not a list of texts")
    return [Conversation([{"role": "user", "content": _text(turn, "a turn of turns")}], None) for turn in asked]


def object_of(row: Any) -> dict[str, Any]:
    """The row as named columns; raises Malformed or Unreadable for anything else that `read_raw` gives."""
    if isinstance(row, Unreadable):
        raise row
    if isinstance(row, Exception):
        raise Malformed(f"not valid JSON ({row})")
    if not isinstance(row, dict):
        raise Malformed("not an object with named columns")
    return row


def turns_of(row: dict[str, Any], kind: str = "messages") -> list[Message]:
    """The turns in `messages` (or in `conversations`, for the kind `sharegpt`), with the roles' usual names.

    Raises Malformed, also for an empty user turn or where there is none, or Unsupported.
    """
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
        if not isinstance(role, str) or role not in ROLES or not isinstance(content, str):
            raise Malformed(f"a turn of {name} has role {role!r} and content of type {type(content).__name__}")
        if ROLES[role] == "user" and not content.strip():
            raise Malformed(f"a user turn of {name} is empty")
        turns.append({"role": ROLES[role], "content": content})
    if all(turn["role"] != "user" for turn in turns):
        raise Malformed("no user turn")
    return turns


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


def _prompt_key(row: dict[str, Any]) -> str:
    """The first prompt column with a value, else the first that there is."""
    found = [key for key in PROMPT_KEYS if row.get(key) is not None] or [key for key in PROMPT_KEYS if key in row]
    if not found:
        raise Malformed(f"no column {', '.join(PROMPT_KEYS[:-1])} or {PROMPT_KEYS[-1]}")
    return found[0]


def _with_system(row: dict[str, Any], turns: list[Message]) -> list[Message]:
    system = _optional(row, "system")
    if system is None or turns[0]["role"] == "system":
        return turns
    return [{"role": "system", "content": system}, *turns]


def _from_turns(turns: list[Message], which: str, meta: dict[str, Any]) -> list[Conversation]:
    asked = next(index for index, turn in enumerate(turns) if turn["role"] == "user")
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    is_open = any(turn["role"] == "user" for turn in turns[answers[-1] + 1 if answers else 0 :])
    found = [
        Conversation(turns[:index], turns[index]["content"] if turns[index]["content"].strip() else None, meta)
        for index in answers
        if index > asked
    ]
    if is_open:
        found.append(Conversation(turns, None, meta))
    return found if which == "all" else found[-1:]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Malformed(f"{name} is empty or not text")
    return value


def _optional(row: dict[str, Any], key: str) -> str | None:
    """The text of a column that may be missing; None where it is blank."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise Malformed(f"{key} is not text (it is of type {type(value).__name__})")
    return value if value and value.strip() else None


def _loads(data: bytes) -> Any:
    """The JSON value of UTF-8 text, or the error; half of a surrogate pair is no text and an error too."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
        if b"\\ud" in data.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return error
    return value
