"""Converts values of rows to those of JSON, and text to a form that is safe to print.

loads(b'{"score": NaN}')                        # {"score": None}
json_value({"at": datetime(2024, 1, 1)})        # {"at": "2024-01-01T00:00:00"}
plain({"quality": float("nan")})                # {"quality": None}

Values that JSON lacks become null, text or a number when they are read, never an error.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

DEEPEST = 64
"""Deepest nesting of lists and objects in a row; every JSON reader handles this depth."""


def loads(data: bytes) -> Any:
    """The JSON value of UTF-8 text, or the error, which is returned and not raised.

    NaN, Infinity and numbers beyond a double are null. Errors are half of a surrogate pair, a key that an object has
    twice, and values that are nested too deeply.
    """
    try:
        value = _DECODER.decode(data.decode("utf-8-sig"))
        # Python accepts an escaped half of a surrogate pair; encoding it again finds it.
        if b"\\ud" in data.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return error
    return value


def json_value(value: Any) -> Any:
    """Converts a value of Parquet or Arrow to one of JSON.

    NaN and infinities become null, dates and times ISO text, time spans seconds, decimals numbers. Binary data that is
    not UTF-8 text becomes `{"binary": LENGTH}`. Any other object becomes `{"object": TYPE}`; its content is not kept.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, bytes):
        return _text(value)
    return {"object": type(value).__name__}


def _number(value: Decimal) -> int | float | None:
    if not value.is_finite():
        return None
    return int(value) if value == value.to_integral_value() else float(value)


def _text(value: bytes) -> Any:
    """Decodes text in a column of binary type; other bytes are replaced by `{"binary": LENGTH}`."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return {"binary": len(value)}
    return {"binary": len(value)} if "\0" in text else text


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite, object_pairs_hook=_object)


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
