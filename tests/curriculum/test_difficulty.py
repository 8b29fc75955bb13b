"""Difficulty: the sign of MFD, the pools, and statistics that are equal for any order of rows."""

import math
import random

import pyarrow as pa
import pytest
import ray.data
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.curriculum.difficulty import pool_of, with_difficulty, with_pool
from tapir_ray.curriculum.stats import ScoreStats, score_stats, table_stats
from tapir_ray.data.schemas import SCORED, conform

SCORE = st.integers(2, 20).map(lambda n: n / 2)


def longest_first(rows: pa.Table) -> pa.Array:
    """A user's difficulty measure."""
    return rows["response_chars"]


def scored(scores: list[tuple[float | None, float | None]], **columns: list) -> pa.Table:
    rows = {
        "teacher_score": [teacher for teacher, _ in scores],
        "student_score": [student for _, student in scores],
        "status": ["ok"] * len(scores),
        "task": ["Math"] * len(scores),
        **columns,
    }
    return with_difficulty(
        conform(pa.table({k: pa.array(v, SCORED.field(k).type) for k, v in rows.items()}), SCORED), "mfd"
    )


@given(SCORE, SCORE, st.integers(-18, 18).map(lambda n: n / 2))
def test_a_row_is_hard_if_the_teacher_is_better_by_delta(teacher: float, student: float, delta: float) -> None:
    rows = scored([(teacher, student)])
    assert rows["difficulty"].to_pylist() == [teacher - student]
    pool = pool_of(rows["difficulty"], rows["teacher_score"], delta, min_teacher_score=4.0).to_pylist()[0]
    if teacher < 4.0:
        assert pool == "unreliable", "two bad answers are not easy"
    else:
        assert pool == ("hard" if teacher - student >= delta else "easy")


def test_an_unjudged_row_is_in_no_pool() -> None:
    rows = scored([(None, None), (9.0, None)])
    assert pool_of(rows["difficulty"], rows["teacher_score"], 2.0, 4.0).to_pylist() == [None, None]


def test_only_ok_rows_have_a_pool() -> None:
    rows = with_pool(scored([(9.0, 3.0), (9.0, 8.0), (9.0, 3.0)], status=["ok", "ok", "filtered"]), 2.0, 4.0)
    assert rows["pool"].to_pylist() == ["hard", "easy", None]
    assert with_pool(rows, 7.0, 4.0)["pool"].to_pylist() == ["easy", "easy", None]


def test_a_row_that_the_student_answers_better_keeps_a_negative_difficulty() -> None:
    assert scored([(6.0, 9.0)])["difficulty"].to_pylist() == [-3.0]


def test_a_users_measure_is_computed() -> None:
    rows = with_difficulty(scored([(9.0, 9.0)], response_chars=[41]), "tests.curriculum.test_difficulty:longest_first")
    assert rows["difficulty"].to_pylist() == [41.0]
    assert pool_of(rows["difficulty"], pa.nulls(1, pa.float64()), 40, 4.0).to_pylist() == ["hard"]


def sample(n: int, seed: int = 0) -> pa.Table:
    generator = random.Random(seed)
    scores = [(generator.randint(4, 20) / 2, generator.randint(2, 20) / 2) for _ in range(n)]
    return scored(
        scores,
        task=[generator.choice(["Art", "Math", None]) for _ in range(n)],
        status=[generator.choice(["ok", "ok", "ok", "failed", "filtered"]) for _ in range(n)],
        response_chars=[generator.randint(1, 5000) for _ in range(n)],
        student_response_chars=[generator.randint(1, 5000) for _ in range(n)],
        repeat_mfd=[generator.choice([None, 0.5, 1.0]) for _ in range(n)],
        position_gap=[generator.choice([None, -0.5, 1.0]) for _ in range(n)],
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 99))
def test_statistics_do_not_depend_on_blocks(n: int, cut: int, seed: int) -> None:
    rows = sample(n, seed)
    whole = table_stats(rows, 4.0)
    parts = table_stats(rows.slice(cut), 4.0).merged(table_stats(rows.slice(0, cut), 4.0))
    assert parts == whole
    assert ScoreStats.model_validate_json(whole.model_dump_json()) == whole
    assert whole.rows == n == whole.reliable + whole.unreliable + whole.failed + whole.filtered + whole.unscored


def test_statistics_streamed_by_ray_equal_those_of_the_table(ray_local: None) -> None:
    rows = sample(200)
    blocks = ray.data.from_arrow([rows.slice(150), rows.slice(0, 70), rows.slice(70, 80)])
    assert score_stats(blocks, 4.0) == table_stats(rows, 4.0)


def test_the_noise_is_the_standard_deviation_of_one_judgement() -> None:
    generator = random.Random(3)
    true = [generator.uniform(3, 6) for _ in range(4000)]
    first = [(9.0, 9.0 - value - generator.gauss(0, 0.5)) for value in true]
    again = [value + generator.gauss(0, 0.5) for value in true]
    noise = table_stats(scored(first, repeat_mfd=again), 4.0).noise
    assert noise == pytest.approx(0.5, rel=0.05)
    assert table_stats(scored([(9.0, 5.0)]), 4.0).noise is None


def test_the_noise_is_of_the_mfd_under_another_measure() -> None:
    rows = scored([(9.0, 5.0), (9.0, 6.0), (8.0, 6.0)], repeat_mfd=[4.0, 2.0, 3.0], response_chars=[40, 900, 7])
    own = with_difficulty(rows, "tests.curriculum.test_difficulty:longest_first")
    assert table_stats(own, 4.0).repeats == table_stats(rows, 4.0).repeats
    assert table_stats(own, 4.0).noise == pytest.approx(math.sqrt(1 / 2)), "differences 0, 1 and −1"


def test_identical_repeats_measure_no_noise() -> None:
    scores, again = [(9.0, 5.0)] * 4, [4.0, 4.0, 4.0, None]
    same = table_stats(scored(scores, repeat_mfd=again, repeat_same=[True, True, True, None]), 4.0)
    assert (same.repeats.n, same.repeats_same, same.noise) == (3, 3, None), "None, not 0"
    one_differs = table_stats(scored(scores, repeat_mfd=again, repeat_same=[True, False, True, None]), 4.0)
    assert one_differs.noise == 0.0, "measured: another reply with the same scores"
    assert same.merged(one_differs).noise == 0.0


def test_scores_that_correlate_with_length_are_reported() -> None:
    chars = list(range(100, 140))
    rows = scored([(5.0 + n / 20, 5.0) for n in range(40)], response_chars=chars, student_response_chars=chars)
    stats = table_stats(rows, 4.0)
    assert stats.length_correlation == pytest.approx(1.0)
    assert stats.student_length.correlation is None, "the student's scores do not vary"
    assert math.isclose(stats.by_task["Math"].teacher_score or 0, sum(5 + n / 20 for n in range(40)) / 40)
