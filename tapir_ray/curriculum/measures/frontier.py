"""Frontier: rows that the student gets right about half of the time, as in LILO (arXiv 2502.12272).

difficulty = p (1 − p), p = share of k sampled answers that agree with the teacher's
"""

from __future__ import annotations

import pyarrow as pa

from tapir_ray.curriculum.measures import Column, measure
from tapir_ray.curriculum.measures.sampled import Samples, Scores, by_row, success_rate

SAMPLES = 8


@measure(samples=SAMPLES, verified=True, highest=0.25, positive=True)
def frontier(rows: pa.Table) -> Column:
    """Returns p (1 − p), 0 to 0.25; null for a row without samples or without a response."""
    return by_row(rows, _of_row)


def _of_row(samples: Samples, scores: Scores, response: str | None) -> float | None:
    if response is None:
        return None
    p = success_rate(samples, scores, response)
    return p * (1.0 - p)
