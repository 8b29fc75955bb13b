"""Verifiers: functions that score an answer without a judge (`judge.verifiers`).

    def one_word(row: Mapping[str, Any], answer: str) -> float | None:
        return None if row["task"] != "Spelling" else 10.0 if len(answer.split()) == 1 else 1.0

The first verifier that grades both answers of a row, the teacher's and the student's, scores it. The judge scores all
other rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tapir_ray.config.registry import VERIFIERS, resolve
from tapir_ray.transforms.scores_json import HIGHEST, LOWEST


class Verifier(Protocol):
    """Function of a row (schema INSTRUCTIONS: `messages`, `task`, `meta` …) and an answer to it."""

    def __call__(self, row: Mapping[str, Any], answer: str) -> float | None:
        """Returns the answer's score, 1 to 10; None for a row or an answer that the verifier cannot grade."""


@dataclass(frozen=True)
class Verified:
    """Scores of one row, and the name of its verifier in the config."""

    verifier: str
    teacher_score: float
    student_score: float


def load_verifiers(specs: Sequence[str]) -> dict[str, Verifier]:
    """Returns the verifiers by their names in the config. Raises InputError for one that cannot be found."""
    return {spec: resolve(spec, VERIFIERS, what="judge.verifiers") for spec in specs}


def verify(
    verifiers: Mapping[str, Verifier], row: Mapping[str, Any], teacher_answer: str, student_answer: str
) -> Verified | None:
    """Returns the scores of the first verifier that grades both answers; None if none does.

    Raises ValueError for a score outside 1 to 10.
    """
    for name, verifier in verifiers.items():
        # Both answers by the same verifier: scores of two scales cannot be subtracted.
        scores = [_checked(name, verifier(row, answer)) for answer in (teacher_answer, student_answer)]
        teacher, student = scores
        if teacher is not None and student is not None:
            return Verified(name, teacher, student)
    return None


def _checked(name: str, score: float | None) -> float | None:
    if score is None:
        return None
    if not LOWEST <= score <= HIGHEST:
        raise ValueError(f"judge.verifiers: {name} returned {score!r}; return None or a score from 1 to 10")
    return float(score)
