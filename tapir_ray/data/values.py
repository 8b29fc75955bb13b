"""Converts the values of a row to those of JSON, and text to a form that is safe to print.

row = plain({"quality": float("nan")})      # {"quality": None}
"""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 64
"""Deepest nesting of lists and objects in a row; every JSON reader handles this depth."""


def plain(value: Any) -> Any:
    """A copy of the value with NaN and Infinity as None and keys as text.

    Values that JSON does not know (dates, bytes) stay. Raises ValueError for nesting deeper than DEEPEST, and for a
    text with half of a surrogate pair, which cannot be encoded as UTF-8.
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
    """Returns whether a value is None or white space, or a list or object that holds nothing else (or nothing)."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict):
        return all(is_blank(one) for one in value.values())
    if isinstance(value, list):
        return all(is_blank(one) for one in value)
    return value is None


def has_text(value: Any) -> bool:
    """Returns whether a value is a text that is not blank, or holds one."""
    if isinstance(value, dict):
        return any(has_text(one) for one in value.values())
    if isinstance(value, list):
        return any(has_text(one) for one in value)
    return isinstance(value, str) and bool(value.strip())


def to_json(value: Any) -> str:
    """A value of `plain` as JSON with sorted keys; dates, bytes and other objects become text."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_text, sort_keys=True)


def _as_text(value: Any) -> str:
    return str(value).encode(errors="replace").decode()


def one_line(text: object) -> str:
    """The text on one line, without control characters: safe in a terminal, a table and a prompt."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
