"""Win rate of a file of AlpacaEval annotations, as the package alpaca-eval computes it; needs neither it nor a network.

    found = win_rate("alpaca-7b/annotations.json")
    found.win_rate, found.standard_error          # 2.591, 0.487: percent
    found.left_out                                # {"no preference": 3}

A preference is a number from 1 (the baseline's answer is better) to 2 (the model's is); 1.5, in old files 0, is a draw.
The raw win rate is 100 · mean(preference − 1), and its standard error 100 · s / √n with n − 1 in the variance s².
"""

from __future__ import annotations

import gzip
import json
import math
import statistics
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError

DRAW = 1.5
GZIP = b"\x1f\x8b"
NO_PREFERENCE, NOT_A_NUMBER, OUT_OF_RANGE = "no preference", "not a number", "not from 1 to 2"
"""Reasons of annotations that are left out."""


@dataclass(frozen=True)
class WinRate:
    """Win rate of a model against a baseline over `n_total` annotations, in percent."""

    win_rate: float
    standard_error: float | None
    """None with one annotation."""
    discrete_win_rate: float
    """The same with each preference rounded to a win or a loss; draws stay."""
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    left_out: dict[str, int]
    """Number of annotations without a usable preference, by reason."""

    @property
    def in_words(self) -> str:
        """The figures in a line: `win rate 2.591 % (standard error 0.487, 805 annotations)`."""
        error = "unknown" if self.standard_error is None else f"{self.standard_error:.3f}"
        without = "".join(f", without {count} ({reason})" for reason, count in self.left_out.items())
        return f"win rate {self.win_rate:.3f} % (standard error {error}, {self.n_total} annotations{without})"


def win_rate(path: str) -> WinRate:
    """Returns the win rate of a file of annotations: JSON, or JSON lines, also compressed by gzip.

    An annotation without a number from 1 to 2 is left out and counted. Raises InputError for a file that cannot be
    read or has no usable annotation.
    """
    try:
        return rate(read_annotations(path))
    except InputError as error:
        raise InputError(f"annotations {path}: {error}") from error


def rate(annotations: Iterable[Any]) -> WinRate:
    """Returns the win rate of annotations, mappings with a `preference`, or of plain preferences.

    Raises InputError if none is usable.
    """
    left_out: Counter[str] = Counter()
    preferences: list[float] = []
    for annotation in annotations:
        preference, reason = read_preference(annotation)
        if preference is None:
            left_out[reason] += 1
        else:
            preferences.append(preference)
    if not preferences:
        raise InputError(f"no annotation has a preference from 1 to 2 ({dict(left_out) or 'there are none'})")
    # Half to even, as the package rounds; only exact draws stay draws.
    whole = [preference if preference == DRAW else round(preference) for preference in preferences]
    n = len(preferences)
    return WinRate(
        win_rate=100 * (statistics.fmean(preferences) - 1),
        standard_error=100 * statistics.stdev(preferences) / math.sqrt(n) if n > 1 else None,
        discrete_win_rate=100 * (statistics.fmean(whole) - 1),
        n_wins=sum(preference > DRAW for preference in preferences),
        n_wins_base=sum(preference < DRAW for preference in preferences),
        n_draws=sum(preference == DRAW for preference in preferences),
        n_total=n,
        left_out=dict(left_out),
    )


def read_preference(annotation: Any) -> tuple[float | None, str]:
    """Returns (preference from 1 to 2, ""), or (None, reason) for an annotation without one."""
    given = annotation.get("preference") if isinstance(annotation, dict) else annotation
    if given is None or given == "":
        return None, NO_PREFERENCE
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        return None, NOT_A_NUMBER
    if math.isnan(value):
        return None, NOT_A_NUMBER if isinstance(given, bool) else NO_PREFERENCE
    value = DRAW if value == 0 else value
    return (value, "") if 1 <= value <= 2 else (None, OUT_OF_RANGE)


def read_annotations(path: str) -> list[Any]:
    """Returns the annotations of a file; in JSON lines, a line that is no JSON is the text of the line.

    Raises InputError for a file that is missing or broken, or that holds no list.
    """
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if data.startswith(GZIP) else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {one_line(error)}") from error
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = [_of_line(line) for line in text.split("\n") if line.strip()]
        if not any(isinstance(line, dict) for line in lines):
            raise InputError(f"not JSON: {one_line(error)}") from error
        return lines
    if isinstance(found, dict) and "preference" in found:
        return [found]
    if not isinstance(found, list):
        raise InputError(f"holds a {type(found).__name__}: give the annotations.json that alpaca-eval writes, a list")
    return found


def _of_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line
