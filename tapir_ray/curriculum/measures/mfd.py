"""MFD, the Model Fitting Difficulty of TAPIR (arXiv 2405.13448).

Defined here as J(teacher) − J(student). Public texts print the opposite sign, which contradicts their stated intent.
A negative MFD means that the student is better; it is kept.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.curriculum.measures import Column, measure


@measure(judge=True, positive=True)
def mfd(rows: pa.Table) -> Column:
    """Returns teacher_score − student_score of each row, −9 to 9; null for a row without both scores."""
    return pc.subtract(rows["teacher_score"], rows["student_score"])
