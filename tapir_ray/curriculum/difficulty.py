"""Difficulty of scored rows by the configured measure, and the pool of each row.

    rows = with_difficulty(rows, "mfd")
    rows = with_pool(rows, plan.threshold, config.judge.min_teacher_score, plan.ceiling)

A row is hard, that is selected, if its difficulty is at least δ, and at most the plan's ceiling if there is one. The
measures are in `measures/`.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.curriculum.measures import Column, load_measure
from tapir_ray.data.schemas import OK, with_columns

HARD, EASY, UNRELIABLE = "hard", "easy", "unreliable"
UNSCORED, PROBE = "unscored", "probe"
"""Pools of a round's rows that were not scored: those that may fill up its training set, and generated rows that are
kept out of it."""
DIGITS = 2
"""Decimals of a difficulty. Pools and the plan's histogram round alike, so a pool has as many rows as were planned."""


def with_difficulty(rows: pa.Table, spec: str) -> pa.Table:
    """Returns `rows` with the column `difficulty` by the measure `spec`: float64, rounded to 0.01, higher is harder.

    The measure's own columns are added as well.
    """
    measure = load_measure(spec)
    # Stored answers already have the measure's columns, all null; a measure must not find them in its input.
    measured = measure(rows.drop_columns([one.name for one in measure.columns if one.name in rows.column_names]))
    if isinstance(measured, pa.Table):
        rows, measured = measured, measured["difficulty"]
    return with_columns(rows, difficulty=rounded(pc.cast(measured, pa.float64())))


def rounded(values: Column) -> Column:
    """Returns difficulties rounded to 0.01."""
    # Adding 0.0 turns −0.0 into 0.0, which would otherwise be a group of its own in `group_by`.
    return pc.add(pc.round(values, DIGITS), 0.0)


def pool_of(
    difficulty: Column, teacher_score: Column, delta: float, min_teacher_score: float, ceiling: float | None = None
) -> Column:
    """Returns `hard`, `easy` or `unreliable` for each row, as strings; null for a row without a difficulty.

    Hard is `delta` ≤ difficulty, and difficulty ≤ `ceiling` unless that is None. A row is unreliable if its teacher's
    answer scored below `min_teacher_score`: two bad answers do not make it easy. Rows without a `teacher_score`, as of
    a measure without a judge, are reliable.
    """
    value = rounded(difficulty)
    hard = pc.greater_equal(value, delta)
    if ceiling is not None:
        hard = pc.and_(hard, pc.less_equal(value, ceiling))
    pool = pc.if_else(_unreliable(teacher_score, min_teacher_score), UNRELIABLE, pc.if_else(hard, HARD, EASY))
    return pc.if_else(pc.is_valid(difficulty), pool, pa.scalar(None, pa.string()))


def with_pool(rows: pa.Table, delta: float | None, min_teacher_score: float, ceiling: float | None = None) -> pa.Table:
    """Returns scored rows with the column `pool` (see `pool_of`), null for rows that are not ok.

    If `delta` is None (`curriculum.difficulty.select: none`), every ok row that is not unreliable is hard, with or
    without a difficulty.
    """
    if delta is None:
        unreliable = _unreliable(rows["teacher_score"], min_teacher_score)
        pool = pc.if_else(unreliable, UNRELIABLE, HARD)
    else:
        pool = pool_of(rows["difficulty"], rows["teacher_score"], delta, min_teacher_score, ceiling)
    pool = pc.if_else(pc.equal(rows["status"], OK), pool, pa.scalar(None, pa.string()))
    return with_columns(rows, pool=pool)


def _unreliable(teacher_score: Column, min_teacher_score: float) -> Column:
    # A comparison with a null score is null, and null is neither true nor false for `if_else`.
    return pc.fill_null(pc.less(teacher_score, min_teacher_score), False)
