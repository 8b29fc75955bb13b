"""Tests and conversions of the value of one column: a text, turns, or a repetition of known turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tapir_ray.data.chat_turns import USER, Malformed, Turn, Unsupported, read_turns, split_answer
from tapir_ray.data.values import plain


def listed(value: Any) -> Any:
    """Decodes a list stored as JSON text; returns anything else unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return plain(json.loads(value))
    except (ValueError, RecursionError):
        return value


def required_text(value: Any, name: str) -> str:
    """Returns the text in a column. Raises Malformed if it is not text."""
    if not isinstance(value, str):
        raise Malformed(f"{name} is not text (it is of type {type(value).__name__})")
    return value


def prompt_of(value: Any, name: str) -> str | list[Turn]:
    """The prompt in a column: a text or turns. Raises Malformed or Unsupported."""
    if isinstance(value, str):
        return value
    if not is_talk(value, name):
        raise Malformed(f"{name} is empty or not text")
    return read_turns(value if isinstance(value, list) else [value], name)


def key_of(value: str | Sequence[Turn]) -> list[tuple[str, str]]:
    """(role, stripped text) of each turn: two columns with equal keys are the same."""
    turns = [Turn(USER, value)] if isinstance(value, str) else value
    return [(turn.role, turn.content.strip()) for turn in turns]


def is_talk(value: Any, name: str) -> bool:
    """Returns whether a value is a turn or a list of turns."""
    turns = [value] if isinstance(value, dict) else value
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return False
    try:
        read_turns(turns, name)
    except Unsupported:
        return True  # turns, though with tool calls or images
    except Malformed:
        return False
    return True


def repeats(value: Any, turns: Sequence[Turn]) -> bool:
    """Returns whether the turns contain a value, which is a text, a turn or a list of turns."""
    if isinstance(value, str):
        try:
            answer, _ = split_answer(value)
        except Unsupported:
            return False
        return any(answer.strip() in turn.content for turn in turns)
    try:
        own = read_turns(value if isinstance(value, list) else [value], "")
    except (Malformed, Unsupported):
        return False
    keys = key_of(turns)
    return all(key in keys for key in key_of(own))


def bare_thoughts(text: str) -> str:
    """The thoughts without their marks: `<think>2 + 2</think>` becomes `2 + 2`."""
    try:
        answer, thoughts = split_answer(text)
    except Unsupported:
        return text
    return thoughts if thoughts and not answer.strip() else text
