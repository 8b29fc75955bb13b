"""Limits, prices and the budget, with a clock of the test's own; the actor with real workers is in test_roles.py."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.config import Budget, Limits, Price
from tapir_ray.llm.usage import Account, Count, Ledger


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ledger(clock: Clock, budget: Budget | None = None, price: Price | None = None, **limits: int) -> Ledger:
    account = Account("teacher", Limits(**limits), price or Price())
    return Ledger({"teacher": account, "judge": account}, budget or Budget(), clock)


@settings(deadline=None, max_examples=60)
@given(
    per_minute=st.integers(1, 3000),
    arrivals=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 200)), min_size=1, max_size=60),
)
def test_no_minute_has_more_requests_than_allowed(per_minute: int, arrivals: list[tuple[float, int]]) -> None:
    clock = Clock()
    one = ledger(clock, requests_per_minute=per_minute)
    granted_at: list[tuple[float, int]] = []
    for pause, waiting in arrivals:
        clock.now += pause
        granted, wait = one.lease("teacher", [1] * waiting)
        granted_at.append((clock.now, granted))
        assert (wait > 0) == (granted < waiting) and granted <= max(1, math.ceil(per_minute / 60))
    for start, _ in granted_at:
        assert sum(count for at, count in granted_at if start <= at <= start + 60) <= per_minute


def test_a_waiting_worker_gets_the_whole_rate() -> None:
    clock = Clock()
    one = ledger(clock, requests_per_minute=600)
    total = 0
    while clock.now < 120:
        granted, wait = one.lease("teacher", [1] * 50)
        total += granted
        clock.now += wait
    assert 1100 <= total <= 1200


def test_tokens_are_leased_at_worst_case_and_settled_by_what_was_used() -> None:
    clock = Clock()
    one = ledger(clock, tokens_per_minute=6000)
    assert one.lease("teacher", [80, 80]) == (1, pytest.approx(60 / 98.33, rel=0.01))
    one.record([("teacher", Count("respond", requests=1, input_tokens=5, output_tokens=5, reserved_tokens=80))])
    assert one.lease("teacher", [80])[0] == 1


def test_a_request_larger_than_a_seconds_share_still_gets_its_turn() -> None:
    clock = Clock()
    one = ledger(clock, tokens_per_minute=600)
    assert one.lease("teacher", [500])[0] == 1
    granted, wait = one.lease("teacher", [500])
    assert granted == 0 and 45 < wait < 60
    clock.now += wait
    assert one.lease("teacher", [500])[0] == 1


def test_roles_of_a_group_share_limits_and_are_counted_apart() -> None:
    clock = Clock()
    one = ledger(clock, requests_per_minute=60, price=Price(input=1.0, cached_input=0.5, output=2.0, reasoning=4.0))
    assert one.lease("teacher", [1])[0] == 1
    assert one.lease("judge", [1])[0] == 0
    one.record(
        [
            ("judge", Count("judge", requests=2, input_tokens=1_000_000, cached_tokens=500_000, failed=1)),
            ("judge", Count("judge", requests=1, output_tokens=1_000_000, reasoning_tokens=500_000)),
            ("judge", Count("gate", requests=1)),
        ]
    )
    usage = one.snapshot()
    assert usage["judge"]["requests"] == 4 and usage["judge"]["failed"] == 1
    assert usage["judge"]["cost"] == pytest.approx(0.5 + 0.25 + 1.0 + 2.0)
    assert usage["teacher"]["requests"] == 0 and usage["teacher"]["cost"] == 0
    assert one.by_kind()["judge"]["judge"]["requests"] == 3


@pytest.mark.parametrize("budget", [Budget(max_cost=1.0), Budget(max_tokens=1_000_000)])
def test_no_leases_once_the_budget_is_used_up(budget: Budget) -> None:
    one = ledger(Clock(), budget, Price(output=1.0))
    assert one.lease("teacher", [1] * 5) == (5, 0.0)
    one.record([("teacher", Count("respond", requests=1, output_tokens=1_000_000))])
    assert one.lease("teacher", [1]) == (0, math.inf) and one.exhausted()
    later = ledger(Clock(), budget, Price(output=1.0))
    later.record(one.counts())
    assert later.exhausted() and later.snapshot() == one.snapshot()
