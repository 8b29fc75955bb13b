"""The challenge share rises by one step a round and never exceeds 1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.curriculum.schedule import alpha

SHARE = st.floats(0.0, 1.0)


def test_the_default_schedule_rises_by_its_step() -> None:
    assert [alpha(r, 0.3, 0.2) for r in (1, 2, 3, 4, 5, 6)] == [0.3, 0.5, 0.7, 0.9, 1.0, 1.0]


@given(st.integers(1, 50), SHARE, SHARE)
def test_the_share_never_falls_and_stays_within_0_and_1(round_number: int, first: float, step: float) -> None:
    now, later = alpha(round_number, first, step), alpha(round_number + 1, first, step)
    assert 0.0 <= now <= later <= 1.0
    assert later == 1.0 or later == pytest.approx(now + step)


def test_rounds_count_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        alpha(0, 0.3, 0.2)
