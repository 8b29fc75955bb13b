"""Values of a row as JSON knows them, and text that is safe to print.

row = plain({"quality": float("nan")})      # {"quality": None}
"""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 64
"""Levels of lists and objects in a row; every reader of JSON takes as many."""


def plain(value: Any) -> Any:
    """A copy of the value in which NaN and Infinity are None and keys are text.

    Values that JSON does not know (dates, bytes) stay. Raises ValueError if the value is nested deeper than DEEPEST, or
    if a text has half of a surrogate pair, which is no character.
    """
    return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a text has half of a surrogate pair, which is no character") from None
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_plain(str(key), depth): _plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, depth + 1) for one in value]
    return value


def is_blank(value: Any) -> bool:
    """Whether a value holds nothing: None, white space, an empty list or object, or a list or object of such."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict):
        return all(is_blank(one) for one in value.values())
    if isinstance(value, list):
        return all(is_blank(one) for one in value)
    return value is None


def has_text(value: Any) -> bool:
    """Whether a value is a text that is not blank, or holds one."""
    if isinstance(value, dict):
        return any(has_text(one) for one in value.values())
    if isinstance(value, list):
        return any(has_text(one) for one in value)
    return isinstance(value, str) and bool(value.strip())


def to_json(value: Any) -> str:
    """A value of `plain` as JSON; what JSON does not know becomes text."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_text, sort_keys=True)


def _as_text(value: Any) -> str:
    return str(value).encode(errors="replace").decode()


def one_line(text: object) -> str:
    """The text on one line, without control characters: safe in a terminal, a table and a prompt."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
