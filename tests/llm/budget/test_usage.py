"""Limits, prices and the budget, with a simulated clock; the actor with real workers is in test_roles.py."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.config import Budget, Limits, Price, PriceTier
from tapir_ray.llm.budget.files import UsageFiles
from tapir_ray.llm.budget.ledger import Ledger
from tapir_ray.llm.budget.usage import Account, Count, Lease, Report

PRICE = Price(input=1.0, cached_input=0.5, output=2.0, reasoning=4.0)
TIERED = Price(
    **PRICE.model_dump(exclude={"tiers", "request"}),
    request=3e-6,
    tiers=[PriceTier(above=200, input=2.0, cached_input=1.0, output=3.0, reasoning=6.0)],
)
NUMBERS = itertools.count(1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ledger(
    clock: Clock | None = None,
    budget: Budget | None = None,
    price: Price | None = None,
    files: UsageFiles | None = None,
    **limits: int,
) -> Ledger:
    account = Account("teacher", Limits(**limits), price or Price(), patience_s=150.0)
    return Ledger({"teacher": account, "judge": account}, budget or Budget(), files, clock or Clock())


def lease(output_tokens: int, input_tokens: int = 0) -> Lease:
    return Lease(f"w-{next(NUMBERS)}", input_tokens, output_tokens)


def leases(*output_tokens: int) -> list[Lease]:
    return [lease(tokens) for tokens in output_tokens]


def report(*counts: tuple[str, Count], settled: list[tuple[str, int | None]] | None = None) -> Report:
    return Report("w", next(NUMBERS), list(counts), settled or [])


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
        granted, wait = one.lease("teacher", leases(*[1] * waiting))
        granted_at.append((clock.now, granted))
        assert (wait > 0) == (granted < waiting) and granted <= max(1, math.ceil(per_minute / 60))
    for start, _ in granted_at:
        assert sum(count for at, count in granted_at if start <= at <= start + 60) <= per_minute


def test_a_waiting_worker_gets_the_whole_rate() -> None:
    clock = Clock()
    one = ledger(clock, requests_per_minute=600)
    total = 0
    while clock.now < 120:
        granted, wait = one.lease("teacher", leases(*[1] * 50))
        total += granted
        clock.now += wait
    assert 1100 <= total <= 1200


def test_tokens_are_leased_at_worst_case_and_settled_at_their_use() -> None:
    clock = Clock()
    one = ledger(clock, tokens_per_minute=6000)
    first, second = leases(80, 80)
    assert one.lease("teacher", [first, second]) == (1, pytest.approx(60 / 98.33, rel=0.01))
    used = Count("respond", requests=1, input_tokens=5, output_tokens=5)
    one.record(report(("teacher", used), settled=[(first.id, 10)]))
    assert one.lease("teacher", [second])[0] == 1


def test_a_request_larger_than_a_seconds_share_still_gets_its_turn() -> None:
    clock = Clock()
    one = ledger(clock, tokens_per_minute=600)
    assert one.lease("teacher", leases(500))[0] == 1
    granted, wait = one.lease("teacher", leases(500))
    assert granted == 0 and 45 < wait < 60
    clock.now += wait
    assert one.lease("teacher", leases(500))[0] == 1


def test_roles_of_a_group_share_limits_and_are_counted_separately() -> None:
    one = ledger(requests_per_minute=60, price=PRICE)
    assert one.lease("teacher", leases(1))[0] == 1
    assert one.lease("judge", leases(1))[0] == 0
    one.record(
        report(
            ("judge", Count("judge", requests=2, input_tokens=1_000_000, cached_tokens=500_000, failed=1)),
            ("judge", Count("judge", requests=1, output_tokens=1_000_000, reasoning_tokens=500_000)),
            ("judge", Count("gate", requests=1)),
        )
    )
    usage = one.snapshot()
    assert usage["judge"]["requests"] == 4 and usage["judge"]["failed"] == 1
    assert usage["judge"]["cost"] == pytest.approx(0.5 + 0.25 + 1.0 + 2.0)
    assert usage["teacher"]["requests"] == 0 and usage["teacher"]["cost"] == 0
    assert one.by_kind()["judge"]["judge"]["requests"] == 3


WORST = st.tuples(st.integers(0, 400), st.integers(1, 400))


@settings(deadline=None, max_examples=300)
@given(
    data=st.data(),
    price=st.sampled_from([PRICE, TIERED]),
    budget=st.one_of(
        st.integers(1, 5000).map(lambda n: Budget(max_tokens=n)),
        st.integers(1, 5000).map(lambda n: Budget(max_cost=n * 2e-6)),
    ),
    steps=st.lists(st.one_of(st.lists(WORST, min_size=1, max_size=5), st.integers(0, 10)), max_size=40),
)
def test_the_budget_is_never_exceeded(
    data: st.DataObject, price: Price, budget: Budget, steps: list[list[tuple[int, int]] | int]
) -> None:
    """Leases and records come in any order; some records never come, or report no usage."""
    clock = Clock()
    one = ledger(clock, budget, price)
    out: list[tuple[str, Lease]] = []
    lost = 0.0
    for step in steps:
        clock.now += data.draw(st.sampled_from([0.0, 1.0, 200.0]), label="seconds")
        if isinstance(step, list):
            role = data.draw(st.sampled_from(["teacher", "judge"]))
            wanted = [lease(output, given) for given, output in step]
            granted, _ = one.lease(role, wanted)
            out += [(role, leave) for leave in wanted[:granted]]
        elif out:
            role, leave = out.pop(step % len(out))
            given = data.draw(st.integers(0, leave.input_tokens))
            output = data.draw(st.integers(0, leave.output_tokens))
            count = Count("x", 1, given, data.draw(st.integers(0, given)), output, data.draw(st.integers(0, output)))
            count = count.priced(price)
            known = data.draw(st.booleans())
            if not known:  # Paid for, but its usage is never reported.
                lost += count.cost(price) if budget.max_cost else count.tokens
            reported = count if known else Count("x", 1)
            one.record(report((role, reported), settled=[(leave.id, count.tokens if known else None)]))
        usage = one.snapshot().values()
        spent = sum(role["cost"] if budget.max_cost else role["input_tokens"] + role["output_tokens"] for role in usage)
        assert spent + lost <= (budget.max_cost or budget.max_tokens or 0) * (1 + 1e-9)


def test_a_request_beyond_the_budget_waits_for_requests_in_flight() -> None:
    one = ledger(budget=Budget(max_tokens=100))
    first, second = leases(60, 60)
    assert one.lease("teacher", [first, second]) == (1, pytest.approx(0.2))
    one.record(report(("teacher", Count("x", 1, output_tokens=30)), settled=[(first.id, 30)]))
    assert one.lease("teacher", [second]) == (1, 0.0)


def test_an_exhausted_budget_stays_exhausted() -> None:
    one = ledger(budget=Budget(max_tokens=100))
    assert one.lease("teacher", leases(101)) == (0, math.inf)
    assert one.drained()
    assert one.lease("judge", leases(1)) == (0, math.inf)


def test_leases_of_a_dead_worker_expire_and_count_as_used() -> None:
    clock = Clock()
    one = ledger(clock, Budget(max_tokens=100))
    (dead,) = leases(60)
    one.lease("teacher", [dead])
    assert one.lease("judge", leases(60)) == (0, pytest.approx(0.2))
    clock.now += 151
    assert one.lease("judge", leases(40))[0] == 1
    assert one.snapshot()["teacher"]["unsettled_tokens"] == 60
    one.record(report(("teacher", Count("x", 1, output_tokens=5)), settled=[(dead.id, 5)]))
    assert one.snapshot()["teacher"]["unsettled_tokens"] == 0, "the worker was only slow"


def test_a_repeated_lease_or_report_counts_once() -> None:
    one = ledger(budget=Budget(max_tokens=100))
    (first,) = leases(60)
    assert one.lease("teacher", [first]) == one.lease("teacher", [first]) == (1, 0.0)
    twice = report(("teacher", Count("x", 1, output_tokens=5)), settled=[(first.id, 5)])
    one.record(twice)
    one.record(twice)
    assert one.snapshot()["teacher"]["output_tokens"] == 5


def test_the_budget_is_of_the_run_and_not_of_an_attempt(tmp_path: Path) -> None:
    budget, folder = Budget(max_tokens=100), str(tmp_path)
    one = ledger(budget=budget, files=UsageFiles(folder, 1))
    first, lost = leases(30, 30)
    one.lease("teacher", [first, lost])
    one.record(report(("teacher", Count("x", 1, output_tokens=20)), settled=[(first.id, 20)]))
    one.save()
    # The driver is killed with one request in flight: it counts at its worst case.
    two = ledger(budget=budget, files=UsageFiles(folder, 2))
    assert two.snapshot()["teacher"]["output_tokens"] == 20
    assert two.snapshot()["teacher"]["unsettled_tokens"] == 30
    assert two.by_kind()["teacher"]["x"]["requests"] == 1
    assert two.lease("judge", leases(51)) == (0, math.inf)
    two.save()
    raised = ledger(budget=Budget(max_tokens=200), files=UsageFiles(folder, 3))
    assert raised.snapshot()["teacher"]["unsettled_tokens"] == 30
    assert raised.lease("judge", leases(150)) == (1, 0.0), "a larger budget continues"


def test_a_request_that_outlives_its_worker_is_reserved_once(tmp_path: Path) -> None:
    """A request in a batch outlives its worker.

    However many attempts wait for one, its worst case counts once until its usage is known.
    """

    def start(attempt: int) -> Ledger:
        return ledger(budget=Budget(max_tokens=250), files=UsageFiles(str(tmp_path), attempt))

    asked = Lease("batch-1", 60, 40)
    for attempt in (1, 2, 3):
        one = start(attempt)
        for _ in range(2):
            assert one.lease("teacher", [asked])[0] == 1
        one.save()
        one = start(attempt)  # The actor dies and restarts.
        assert one.snapshot()["teacher"]["unsettled_tokens"] == 0
    one.record(Report("w", 1, [("teacher", Count("respond", requests=1, input_tokens=5))], [("batch-1", 5)]))
    assert one.lease("teacher", [Lease("other", 145, 100)])[0] == 1
    one.save()
    last = start(4).snapshot()["teacher"]
    assert (last["input_tokens"], last["unsettled_tokens"]) == (5, 245)
    again = start(5)  # As after a retry, when the earlier lease has been settled.
    assert again.lease("teacher", [asked])[0] == 0 and again.snapshot()["teacher"]["unsettled_tokens"] == 245


def test_a_restarted_actor_continues_with_its_state(tmp_path: Path) -> None:
    files = UsageFiles(str(tmp_path), 1)
    one = ledger(budget=Budget(max_tokens=100), files=files)
    first, second = leases(30, 30)
    one.lease("teacher", [first, second])
    done = report(("teacher", Count("x", 1, output_tokens=20)), settled=[(first.id, 20)])
    one.record(done)
    one.save()
    again = ledger(budget=Budget(max_tokens=100), files=files)
    again.record(done)
    assert again.snapshot()["teacher"]["output_tokens"] == 20
    assert again.lease("judge", leases(51)) == (0, pytest.approx(0.2)), "the second lease is still reserved"
    again.record(report(("teacher", Count("x", 1, output_tokens=30)), settled=[(second.id, 30)]))
    assert again.lease("judge", leases(50)) == (1, 0.0)


def test_under_a_budget_a_lease_is_stored_before_it_is_granted(tmp_path: Path) -> None:
    ledger(budget=Budget(max_tokens=100), files=UsageFiles(str(tmp_path), 1)).lease("teacher", leases(60))
    later = ledger(budget=Budget(max_tokens=100), files=UsageFiles(str(tmp_path), 2))
    assert later.lease("teacher", leases(60)) == (0, math.inf)
