"""Preference pairs: the teacher's and the student's answer to an instruction, the higher score is chosen.

    for pair in pairs(rows(run, scored(run, layout), provenance, counts, more=SCORES), counts): ...

The judge saw the two answers in both orders. A pair is kept if the same answer won in both. With d = teacher_score −
student_score, the mean of the two orders' differences, and `position_gap` g, the distance between them, the orders gave
d + g/2 and d − g/2: they agree if |d| > g/2. A verifier's scores have no order, and are kept if they differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tapir_ray.data.chat_turns import ASSISTANT
from tapir_ray.data.schemas import JUDGE, prompt_hash
from tapir_ray.report.export.formats import PAIRS
from tapir_ray.report.export.rows import REPEATED, Counts, Repeats

SCORES = ("student_response", "teacher_score", "student_score", "position_gap", "scored_by", "finish_reason")
"""Columns of a scored table that a pair needs, besides those of a row."""
NO_STUDENT = "no student answer (not scored, or empty)"
NO_SCORES = "no scores"
ONE_ORDER = "judged in one order only"
TIE = "equal scores"
DISAGREE = "the two orders disagree"
CUT_OFF = "the better answer is cut off"
TEACHER, STUDENT = "teacher", "student"


def pairs(rows: Iterator[dict[str, Any]], counts: Counts) -> Iterator[dict[str, Any]]:
    """Yields rows of PAIRS; the others are counted in `counts.left_out`.

    The answers of a student that did not change between rounds give one pair.
    """
    repeats = Repeats()
    for row in rows:
        if (reason := undecided(row)) is not None:
            counts.left_out[reason] += 1
            continue
        pair = pair_of(row)
        if repeats(prompt_hash([*pair["prompt"], *pair["chosen"], *pair["rejected"]])):
            counts.left_out[REPEATED] += 1
            continue
        yield pair


def undecided(row: dict[str, Any]) -> str | None:
    """Returns why the scores of a row prefer neither answer; None if they prefer one."""
    if not (row["student_response"] or "").strip():
        return NO_STUDENT
    if row["teacher_score"] is None or row["student_score"] is None:
        return NO_SCORES
    difference, gap = row["teacher_score"] - row["student_score"], row["position_gap"]
    if gap is None and row["scored_by"] in (None, JUDGE):
        return ONE_ORDER
    if difference == 0 or row["student_response"] == row["response"]:
        return TIE
    if abs(difference) <= (gap or 0.0) / 2:
        return DISAGREE
    return CUT_OFF if difference < 0 and row["finish_reason"] == "length" else None


def pair_of(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of PAIRS for a row whose scores prefer one answer."""
    sides = [
        (row["teacher_score"], TEACHER, row["response"]),
        (row["student_score"], STUDENT, row["student_response"]),
    ]
    chosen, rejected = sorted(sides, key=lambda side: side[0], reverse=True)
    return {
        **{name: row.get(name) for name in PAIRS.names},
        "prompt": row["messages"],
        "chosen": [{"role": ASSISTANT, "content": chosen[2]}],
        "rejected": [{"role": ASSISTANT, "content": rejected[2]}],
        "chosen_score": chosen[0],
        "rejected_score": rejected[0],
        "chosen_by": chosen[1],
    }
