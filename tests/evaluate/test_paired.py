"""Paired bootstrap: intervals that are known from exact distributions, pairing by row, and the order of rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tapir_ray.errors import InputError
from tapir_ray.evaluate import paired
from tapir_ray.evaluate.paired import Gain, Metric, bootstrap, in_words, paired_gain, rows_in_words


def scores(values: list[float]) -> dict[str, float]:
    return {f"row-{number}": value for number, value in enumerate(values)}


def test_equal_differences_have_an_interval_without_width() -> None:
    assert paired_gain(scores([3.0, 8.0, 5.5]), scores([3.5, 8.5, 6.0])) == Gain(0.5, 0.5, 0.5, 3, 0)


def test_two_rows_have_the_interval_of_their_four_resamples() -> None:
    """Differences 0 and 1: the four resamples have the means 0, ½, ½ and 1, so each end has a quarter."""
    assert paired_gain(scores([4.0, 4.0]), scores([4.0, 5.0])) == Gain(0.5, 0.0, 1.0, 2, 0)


def test_the_ends_are_those_of_the_exact_binomial_distribution() -> None:
    """One difference of 1 and five of 0: the sum of a resample is binomial with n 6 and p 1/6. P(≤ 2) is 0.938 and
    P(≤ 3) is 0.991, so the 97.5th percentile is 3/6; P(0) is 0.335, so the 2.5th is 0."""
    gain = paired_gain(scores([4.0] * 6), scores([5.0] + [4.0] * 5))
    assert (gain.mean, gain.low, gain.high) == (0.1667, 0.0, 0.5)


def test_many_rows_have_the_interval_of_the_normal_distribution() -> None:
    differences = np.random.default_rng(7).normal(0.3, 2.0, 400)
    gain = paired_gain(scores([0.0] * 400), scores(differences.tolist()))
    half = 1.96 * differences.std() / math.sqrt(400)
    assert gain.mean == pytest.approx(differences.mean(), abs=1e-4)
    assert gain.low == pytest.approx(differences.mean() - half, abs=0.02)
    assert gain.high == pytest.approx(differences.mean() + half, abs=0.02)


def test_rows_that_are_hard_for_both_students_do_not_widen_the_interval() -> None:
    """Unpaired, the rows' own spread of 1 to 10 would give an interval of more than ±1."""
    before = scores([1.0, 10.0] * 20)
    after = {row_id: score + (0.1 if score > 5 else 0.3) for row_id, score in before.items()}
    gain = paired_gain(before, after)
    assert gain.sign == 1 and gain.high - gain.low < 0.1


def test_rows_of_one_side_are_left_out_and_counted() -> None:
    before, after = {"a": 1.0, "b": 2.0, "c": 9.0}, {"b": 4.0, "a": 3.0, "d": 1.0, "e": 1.0}
    assert paired_gain(before, after) == Gain(2.0, 2.0, 2.0, 2, 3)
    assert rows_in_words(paired_gain(before, after)) == "2 rows, without 3 that one of them lacks"
    assert rows_in_words(paired_gain(before, before)) == "3 rows"


def test_without_a_common_row_there_is_no_interval() -> None:
    with pytest.raises(InputError, match=r"no row has both scores \(1 rows have one of them, 0 the other\)"):
        paired_gain({"a": 1.0}, {})


def test_the_order_of_the_rows_and_the_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    before, after = scores(generator.normal(5, 1, 50).tolist()), scores(generator.normal(5, 1, 50).tolist())
    gain = paired_gain(before, after, random_seed=3)
    assert gain == paired_gain(before, dict(reversed(after.items())), random_seed=3)
    other = paired_gain(before, after, random_seed=4)
    assert other.mean == gain.mean and (other.low, other.high) != (gain.low, gain.high)
    monkeypatch.setattr(paired, "MOST_DRAWN", 50 * 999)
    in_parts = paired_gain(before, after, random_seed=3)
    assert in_parts.low == pytest.approx(gain.low, abs=0.02) and in_parts.high == pytest.approx(gain.high, abs=0.02)


def test_a_gain_in_words_has_its_sign() -> None:
    assert in_words(Gain(0.4123, 0.1199, 0.7, 400, 0)) == "+0.41 [+0.12, +0.70]"
    assert in_words(Gain(-0.5, -0.82, -0.17, 400, 0)) == "-0.50 [-0.82, -0.17]"
    signs = [Gain(0.0, low, high, 1, 0).sign for low, high in [(0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), (0.0, 0.3)]]
    assert signs == [1, -1, 0, 0]


def test_the_interval_of_a_mean_is_that_of_the_exact_binomial_distribution() -> None:
    """One pass of six, as above: the 97.5th percentile is 3/6, the 2.5th is 0."""
    assert bootstrap([1.0] + [0.0] * 5) == Metric(0.1667, 0.0, 0.5, 6)


def test_weights_count_the_parts_of_an_item() -> None:
    """3 of 4 instructions of one item and 0 of 1 of the other: 3 of 5 in all, 0.75 and 0 in resamples of one alone."""
    assert bootstrap([3.0, 0.0, 0.0], [4.0, 1.0, 0.0]) == Metric(0.6, 0.0, 0.75, 2)


def test_a_metric_without_an_item_is_refused() -> None:
    with pytest.raises(InputError, match="at least one scored item"):
        bootstrap([1.0], [0.0])
