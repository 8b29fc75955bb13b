"""The difficulty of scored rows by the configured measure, and the pool that each row falls into.

    rows = with_difficulty(rows, "mfd")
    rows = with_pool(rows, delta=plan.threshold, min_teacher_score=config.judge.min_teacher_score)

Hard means difficulty ≥ δ; the measures themselves are in `measures/`.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.curriculum.measures import Column, load_measure
from tapir_ray.data.schemas import OK, with_columns

HARD, EASY, UNRELIABLE = "hard", "easy", "unreliable"
DIGITS = 2
"""A difficulty counts to this many decimals, so that the pools hold exactly what the plan's histogram counted."""


def with_difficulty(rows: pa.Table, spec: str) -> pa.Table:
    """`rows` with the column `difficulty` of the measure `spec`, as float64 rounded to 0.01; higher is harder.

    The measure's own columns are in the table as well.
    """
    measure = load_measure(spec)
    # Answers that were stored before they were measured have them empty.
    measured = measure(rows.drop_columns([one.name for one in measure.columns if one.name in rows.column_names]))
    if isinstance(measured, pa.Table):
        rows, measured = measured, measured["difficulty"]
    return with_columns(rows, difficulty=rounded(pc.cast(measured, pa.float64())))


def rounded(values: Column) -> Column:
    """Difficulties to 0.01, without a negative zero."""
    return pc.add(pc.round(values, DIGITS), 0.0)


def pool_of(difficulty: Column, teacher_score: Column, delta: float, min_teacher_score: float) -> Column:
    """`hard`, `easy` or `unreliable` for each row, as strings; null where there is no difficulty (never judged).

    A row whose teacher answer scored below `min_teacher_score` is in neither pool: two bad answers are not easy.
    A measure that needs no judge leaves `teacher_score` null, and its rows are reliable.
    """
    unreliable = pc.fill_null(pc.less(teacher_score, min_teacher_score), False)
    hard = pc.greater_equal(rounded(difficulty), delta)
    pool = pc.if_else(unreliable, UNRELIABLE, pc.if_else(hard, HARD, EASY))
    return pc.if_else(pc.is_valid(difficulty), pool, pa.scalar(None, pa.string()))


def with_pool(rows: pa.Table, delta: float, min_teacher_score: float) -> pa.Table:
    """Scored rows with the column `pool` (see `pool_of`); null where the status is not ok."""
    pool = pool_of(rows["difficulty"], rows["teacher_score"], delta, min_teacher_score)
    pool = pc.if_else(pc.equal(rows["status"], OK), pool, pa.scalar(None, pa.string()))
    return with_columns(rows, pool=pool)
