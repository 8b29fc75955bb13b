r"""Verifier of final numbers: for rows with a column `reference` that holds a number (`42`, `#### 42`).

The final number of an answer is in its last `\boxed{…}`, after its last `####`, or it is the whole answer. Any other
answer may hold several numbers, so it goes to the judge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

RIGHT, WRONG = 10.0, 1.0

_MARKED = re.compile(r"\\boxed\{([^{}]*)\}|^\s*####[ \t]*(.+)$", re.MULTILINE)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def reference_number(row: Mapping[str, Any], answer: str) -> float | None:
    """Returns 10 if the answer's final number equals the reference, 1 if not; None if either is not a number.

    42, 42.0, $42 and 1,042 (for 1042) are numbers; 42 apples and 1/2 are not.
    """
    meta = json.loads(row["meta"]) if row["meta"] else {}
    reference, given = final_number(str(meta.get("reference", ""))), final_number(answer)
    if reference is None or given is None:
        return None
    return RIGHT if given == reference else WRONG


def final_number(text: str) -> Decimal | None:
    """Returns the number in the last marked place of a text, or the text itself as a number; None if it is not one."""
    # The last mark counts: earlier ones may be intermediate results.
    marked = [boxed or line for boxed, line in _MARKED.findall(text)]
    written = (marked[-1] if marked else text).strip().strip("$").removesuffix(".").strip()
    try:
        number = Decimal(_THOUSANDS.sub("", written))
    except InvalidOperation:
        return None
    # Decimal accepts `NaN` and `Infinity`.
    return number if number.is_finite() else None
