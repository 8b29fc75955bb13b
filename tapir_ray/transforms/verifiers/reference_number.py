r"""Verifier of final numbers: for rows with a column `reference` that holds a number (`42`, `#### 42`).

The final number of an answer is in its last `\boxed{…}`, after its last `####`, or it is the whole answer. Any other
answer may hold several numbers, so it goes to the judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tapir_ray.data.final_answer import final_number
from tapir_ray.transforms.verifiers import RIGHT, WRONG, meta_of


def reference_number(row: Mapping[str, Any], answer: str) -> float | None:
    """Returns 10 if the answer's final number equals the reference, 1 if not; None if either is not a number.

    42, 42.0, $42 and 1,042 (for 1042) are numbers; 42 apples and 1/2 are not.
    """
    reference, given = final_number(str(meta_of(row).get("reference", ""))), final_number(answer)
    if reference is None or given is None:
        return None
    return RIGHT if given == reference else WRONG
