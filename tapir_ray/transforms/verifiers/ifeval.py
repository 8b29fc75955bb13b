"""Verifier of constraints on the form of an answer, for rows with the columns of IFEval (arXiv 2311.07911).

`instruction_id_list` has the constraints, such as `punctuation:no_comma`, and `kwargs` an object of arguments for each.
The form is graded, not the content.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tapir_ray.data.schemas import text_of
from tapir_ray.transforms.ifeval_checks import Prompt, check, known_instructions
from tapir_ray.transforms.verifiers import RIGHT, WRONG, meta_of


def ifeval(row: Mapping[str, Any], answer: str) -> float | None:
    """Returns 1 + 9 · the share of the constraints that the answer follows; None for a row without constraints.

    Raises ValueError for an unknown constraint, and for lists of different lengths.
    """
    meta = meta_of(row)
    names, arguments = meta.get("instruction_id_list"), meta.get("kwargs")
    if not names:
        return None
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments):
        raise ValueError("the columns instruction_id_list and kwargs must be lists of the same length")
    if unknown := sorted(set(map(str, names)) - known_instructions()):
        raise ValueError(f"the column instruction_id_list has the unknown constraint {unknown[0]}")
    # Tables fill the arguments that a constraint does not take with nulls.
    given = [{name: value for name, value in (one or {}).items() if value is not None} for one in arguments]
    followed = check(Prompt(text_of(row["messages"]), names, given), answer).strict
    return WRONG + (RIGHT - WRONG) * sum(followed) / len(followed)


def _check() -> None:
    """Raises InputError without the packages."""
    known_instructions()


ifeval.check = _check  # type: ignore[attr-defined]
