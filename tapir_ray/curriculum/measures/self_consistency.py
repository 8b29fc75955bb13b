"""Self-consistency of the student, as in TA-in-the-loop (arXiv 2406.05322): no teacher's answer is needed.

difficulty = 1 − share of the most frequent answer among k samples
"""

from __future__ import annotations

import pyarrow as pa

from tapir_ray.curriculum.measures import Column, measure
from tapir_ray.curriculum.measures.sampled import by_row, modal_share

SAMPLES = 8


@measure(samples=SAMPLES, verified=True, highest=1.0)
def self_consistency(rows: pa.Table) -> Column:
    """Returns 1 − the share of the modal answer: 0 (all agree) to 1 − 1 / k; null for a row without samples."""
    return by_row(rows, lambda samples, scores, _: 1.0 - modal_share(samples, scores))
