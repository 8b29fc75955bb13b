"""Unknown: the student's answers disagree with the teacher's, after knowledge detection (arXiv 2406.11275).

difficulty = 1 − p, p = share of k sampled answers that agree with the teacher's
"""

from __future__ import annotations

import pyarrow as pa

from tapir_ray.curriculum.measures import Column, measure
from tapir_ray.curriculum.measures.sampled import by_row, success_rate

SAMPLES = 8


@measure(samples=SAMPLES, verified=True, highest=1.0, positive=True)
def unknown(rows: pa.Table) -> Column:
    """Returns 1 − p: 0 (known) to 1 (unknown); null for a row without samples or without a response."""
    return by_row(
        rows,
        lambda samples, scores, response: None if response is None else 1.0 - success_rate(samples, scores, response),
    )
