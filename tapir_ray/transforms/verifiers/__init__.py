"""Verifiers: functions that score an answer without a judge (`judge.verifiers`).

    def one_word(row: Mapping[str, Any], answer: str) -> float | None:
        return None if row["task"] != "Spelling" else 10.0 if len(answer.split()) == 1 else 1.0

The first verifier that grades both answers of a row, the teacher's and the student's, scores it. The judge scores all
other rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from tapir_ray.config.registry import VERIFIERS, resolve
from tapir_ray.curriculum.measures import SAMPLE_SCORES
from tapir_ray.data.schemas import FAILED, INSTRUCTIONS, with_columns
from tapir_ray.data.values import one_line
from tapir_ray.errors.redaction import redacted
from tapir_ray.transforms.scores_json import HIGHEST, LOWEST

RIGHT, WRONG = float(HIGHEST), float(LOWEST)
"""Scores of a right and of a wrong answer."""


class Verifier(Protocol):
    """Function of a row (schema INSTRUCTIONS: `messages`, `task`, `meta` …) and an answer to it."""

    def __call__(self, row: Mapping[str, Any], answer: str) -> float | None:
        """Returns the answer's score, 1 to 10; None for a row or an answer that the verifier cannot grade."""


@dataclass(frozen=True)
class Verified:
    """Scores of one row, and the name of its verifier in the config.

    One of them is None if the verifier found the other answer wrong and cannot grade this one.
    """

    verifier: str
    teacher_score: float | None
    student_score: float | None

    @property
    def complete(self) -> bool:
        """True if both answers have a score."""
        return self.teacher_score is not None and self.student_score is not None


def load_verifiers(specs: Sequence[str]) -> dict[str, Verifier]:
    """Returns the verifiers by their names in the config. Raises InputError for one that cannot be found.

    Raises InputError as well if a shipped verifier lacks the package that it needs.
    """
    found: dict[str, Verifier] = {}
    for spec in specs:
        found[spec] = resolve(spec, VERIFIERS, what="judge.verifiers")
        # Before anything is spent, not at the first row.
        getattr(found[spec], "check", lambda: None)()
    return found


def verify(
    verifiers: Mapping[str, Verifier], row: Mapping[str, Any], teacher_answer: str, student_answer: str
) -> Verified | None:
    """Returns the scores of the first verifier that grades both answers; None if none does.

    Else those of the first that finds one of them wrong (score 1): the judge then scores the other answer alone. Raises
    ValueError for a score outside 1 to 10.
    """
    partly: Verified | None = None
    for name, verifier in verifiers.items():
        # Both answers by the same verifier: scores of two scales cannot be subtracted. A 1 is wrong on every scale.
        scores = [_checked(name, verifier(row, answer)) for answer in (teacher_answer, student_answer)]
        found = Verified(name, *scores)
        if found.complete:
            return found
        if partly is None and WRONG in scores:
            partly = found
    return partly


def verify_one(verifiers: Mapping[str, Verifier], row: Mapping[str, Any], answer: str) -> float | None:
    """Returns the score of an answer by the first verifier that grades it; None if none does.

    Raises ValueError for a score outside 1 to 10.
    """
    for name, verifier in verifiers.items():
        score = _checked(name, verifier(row, answer))
        if score is not None:
            return score
    return None


def with_sample_scores(rows: pa.Table, specs: Sequence[str]) -> pa.Table:
    """Returns the rows with `sample_scores`: the score of each text of `student_samples`, null for one without.

    An exception of a verifier fails its row with the message.
    """
    verifiers, found = load_verifiers(specs), []
    status, reason = rows["status"].to_pylist(), rows["reason"].to_pylist()
    columns = [*(name for name in INSTRUCTIONS.names if name in rows.column_names), "student_samples"]
    for place, row in enumerate(rows.select(columns).to_pylist()):
        samples = row.pop("student_samples")
        try:
            scores = samples and [None if one is None else verify_one(verifiers, row, one) for one in samples]
        except Exception as error:
            # A user's verifier may raise anything; the other rows do not depend on it.
            scores, status[place] = None, FAILED
            reason[place] = f"{type(error).__name__}: {redacted(one_line(error))[:500]}"
        found.append(scores or None)
    return with_columns(
        rows,
        sample_scores=pa.array(found, SAMPLE_SCORES.type),
        status=pa.array(status, pa.string()),
        reason=pa.array(reason, pa.string()),
    )


def meta_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the other columns of the source row by name; generated rows have none."""
    return json.loads(row["meta"]) if row.get("meta") else {}


def _checked(name: str, score: float | None) -> float | None:
    if score is None:
        return None
    if not LOWEST <= score <= HIGHEST:
        raise ValueError(f"judge.verifiers: {name} returned {score!r}; return None or a score from 1 to 10")
    return float(score)
