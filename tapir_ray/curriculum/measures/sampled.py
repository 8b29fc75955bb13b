"""Comparison of a student's sampled answers: how far they agree with each other, and with the teacher's answer.

An answer that a verifier scored (`judge.verifiers`) is compared by its score, any other by its final answer
(`data/final_answer.py`). A sample without an answer, as its thoughts did not end, agrees with nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pyarrow as pa

from tapir_ray.data.final_answer import answer_key

BEST, WORST = 10.0, 1.0
"""Scores of a verifier for a right and for a wrong answer."""
Scores = Sequence[float | None]
Samples = Sequence[str | None]


def modal_share(samples: Samples, scores: Scores) -> float:
    """Returns the share of the samples that give the most frequent answer: 1 if all agree, 1 / k if none do."""
    # Right answers agree in whatever form they are written; a wrong one agrees with the same wrong answer alone.
    keys = [
        "right" if score == BEST else f"text {answer_key(text)}"
        for text, score in zip(samples, scores, strict=True)
        if text is not None
    ]
    return max(Counter(keys).values(), default=1) / len(samples)


def success_rate(samples: Samples, scores: Scores, response: str) -> float:
    """Returns p, the mean credit of the samples: 0 (none agrees with the teacher) to 1.

    The credit is (score − 1) / 9 for a sample that a verifier scored. Otherwise it is 1 if the final answer is that of
    `response`, and 0 if not.
    """
    right = answer_key(response)
    credits = [
        0.0 if text is None else float(answer_key(text) == right) if score is None else (score - WORST) / (BEST - WORST)
        for text, score in zip(samples, scores, strict=True)
    ]
    return sum(credits) / len(credits)


def by_row(rows: pa.Table, of_row: Callable[[Samples, Scores, str | None], float | None]) -> pa.Array:
    """Returns `of_row(samples, scores, response)` for each row with samples, null for others."""
    found: list[float | None] = []
    for row in rows.select(["student_samples", "sample_scores", "response"]).to_pylist():
        samples = row["student_samples"]
        scores = row["sample_scores"] or [None] * len(samples or [])
        found.append(of_row(samples, scores, row["response"]) if samples else None)
    return pa.array(found, pa.float64())
