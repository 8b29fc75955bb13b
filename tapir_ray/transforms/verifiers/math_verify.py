r"""Verifier of mathematical answers by the package math-verify, for rows with a column `reference`.

The final answer is marked (`\boxed{…}`, `####`), announced ("the answer is"), or it is the whole answer. It is compared
as an expression: 1/2, 0.5 and `\frac{1}{2}` are equal, and so are `(x + 1)^2` and `x^2 + 2x + 1`.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping
from typing import Any

from tapir_ray.data.final_answer import final_text
from tapir_ray.errors import InputError
from tapir_ray.transforms.verifiers import RIGHT, WRONG, meta_of

LONGEST = 200
"""Characters of a final answer that are read. A longer one is prose."""
_COSTLY = re.compile(r"\^[^+\-=,]*\^|\^\s*\{?\s*-?\d{4,}|\d{4,}\s*\{?\s*\^|\d{4,}\s*!|!\s*!|\*\*|\\uparrow")
"""Towers and factorials that sympy may compute for hours: nothing here can interrupt it."""
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
"""Words, which math-verify would read as products of variables."""


def math_verify(row: Mapping[str, Any], answer: str) -> float | None:
    """Returns 10 if the answer's final expression equals the reference, 1 if not; None if either cannot be read."""
    reference = str(meta_of(row).get("reference") or "")
    gold, given = _expression(final_text(reference) or reference), _expression(final_text(answer) or answer)
    if not gold or not given:
        return None
    # The package's time limits use signals, which work in the main thread alone.
    return RIGHT if _package().verify(gold, given, timeout_seconds=None) else WRONG


def _check() -> None:
    """Raises InputError without the package."""
    _package()


math_verify.check = _check  # type: ignore[attr-defined]


def _expression(text: str) -> list[Any] | None:
    """Returns what the package reads from a final answer; None for prose and for costly expressions."""
    text = text.strip().strip("$").strip().removesuffix(".")
    if not text or len(text) > LONGEST or _COSTLY.search(text) or _PROSE.search(text):
        return None
    found: list[Any] = _package().parse(f"${text}$", parsing_timeout=None)
    return found


def _package() -> Any:
    try:
        package = importlib.import_module("math_verify")
    except ImportError as error:
        raise InputError(
            f"the verifier math_verify needs the package math-verify ({error}): pip install 'tapir-ray[verifiers]'"
        ) from error
    # It warns at every call that it has no time limit.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return package
