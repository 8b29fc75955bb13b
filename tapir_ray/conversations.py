"""From a row of instruction data, in any of the usual formats, to conversations.

    conversations = parse(row, format="auto", turns="last")

Formats: Alpaca (instruction, input, output), OpenAI `messages`, ShareGPT `conversations`, prompt-only rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tapir_ray.records import Message
from tapir_ray.sources import Unreadable

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


@dataclass(frozen=True)
class Conversation:
    """The context, the assistant turn to learn (None for a prompt-only row), and the other columns of the row."""

    messages: list[Message]
    response: str | None
    meta: dict[str, Any] = field(default_factory=dict)


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
