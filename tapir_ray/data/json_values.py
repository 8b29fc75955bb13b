"""Converts values of rows to those of JSON; values that JSON lacks become null, text or a number, never an error.

loads(b'{"score": NaN}')                        # {"score": None}
json_value({"at": datetime(2024, 1, 1)})        # {"at": "2024-01-01T00:00:00"}
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


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
