"""MFD, the Model Fitting Difficulty of TAPIR (arXiv 2405.13448).

It is J(teacher) − J(student) here: public texts print the difference the other way round, against their own stated
intent. A negative MFD (the student is better) is kept.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.curriculum.measures import Column, measure


@measure(judge=True, positive=True)
def mfd(rows: pa.Table) -> Column:
    """MFD of each row, teacher_score − student_score (−9..9); null where a score is missing."""
    return pc.subtract(rows["teacher_score"], rows["student_score"])
