"""How hard a row is for the current student, and the pool it falls into.

    rows = with_difficulty(rows, "mfd")
    rows = with_pool(rows, delta=plan.threshold, min_teacher_score=config.judge.min_teacher_score)

MFD, the Model Fitting Difficulty of TAPIR (arXiv 2405.13448), is here J(teacher) − J(student): public texts print the
difference the other way round, against their own stated intent. Hard means MFD ≥ δ; a negative MFD (the student is
better) is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.config.registry import resolve
from tapir_ray.data.schemas import OK

HARD, EASY, UNRELIABLE = "hard", "easy", "unreliable"
DIGITS = 2
"""A difficulty counts to this many decimals, so that the pools hold exactly what the plan's histogram counted."""

Column: TypeAlias = Any
"""A pyarrow Array or ChunkedArray."""
Measure = Callable[[pa.Table], Column]


def mfd(rows: pa.Table) -> Column:
    """MFD of each row, teacher_score − student_score (−9..9); null where a score is missing."""
    return pc.subtract(rows["teacher_score"], rows["student_score"])


MEASURES: dict[str, Measure] = {"mfd": mfd}


def measure(spec: str) -> Measure:
    """The measure named by `curriculum.difficulty.measure`. Raises InputError for an unknown one."""
    return resolve(spec, MEASURES, what="curriculum.difficulty.measure")


def with_difficulty(rows: pa.Table, spec: str) -> pa.Table:
    """`rows` with the column `difficulty` filled by the measure `spec`, as float64 rounded to 0.01; higher is
    harder."""
    values = rounded(pc.cast(measure(spec)(rows), pa.float64()))
    if "difficulty" in rows.column_names:
        return rows.set_column(rows.column_names.index("difficulty"), "difficulty", values)
    return rows.append_column("difficulty", values)


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
    if "pool" in rows.column_names:
        return rows.set_column(rows.column_names.index("pool"), "pool", pool)
    return rows.append_column("pool", pool)
