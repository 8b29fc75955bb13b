"""Suite `holdout`: its `difficulty` is that of the run's measure."""

from __future__ import annotations

import pyarrow as pa

from tapir_ray.data.schemas import SCORED, conform
from tapir_ray.evaluate.holdout import with_measured

ROWS = conform(
    [
        {"status": "ok", "teacher_score": 9.0, "student_score": 6.5, "response_chars": 41},
        {"status": "failed", "response_chars": 7},
    ],
    SCORED,
)


def difficulties(rows: pa.Table, spec: str) -> list[float | None]:
    measured = with_measured(rows, spec)
    assert measured.schema == SCORED
    assert measured.drop_columns(["difficulty"]) == rows.drop_columns(["difficulty"])
    return measured["difficulty"].to_pylist()


def test_the_difficulty_is_the_mfd_for_the_measure_mfd() -> None:
    assert difficulties(ROWS, "mfd") == [2.5, None]


def test_the_difficulty_is_by_another_measure_although_the_judge_scored() -> None:
    assert difficulties(ROWS, "tests.curriculum.test_difficulty:longest_first") == [41.0, 7.0]


def test_a_measure_of_samples_finds_nulls() -> None:
    assert difficulties(ROWS, "tests.curriculum.test_measures:disagreement") == [None, None]


def test_a_measure_of_losses_finds_nulls() -> None:
    assert difficulties(ROWS, "tests.curriculum.test_measures:ratio") == [None, None]


def test_a_block_without_rows_keeps_its_schema() -> None:
    assert difficulties(SCORED.empty_table(), "mfd") == []
