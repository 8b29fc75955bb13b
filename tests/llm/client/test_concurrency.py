"""Requests in flight: an unknown limit grows and is halved by overloads; a configured limit stays."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tapir_ray.config import Endpoint, Limits
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client import client as client_module
from tapir_ray.llm.client.concurrency import START, InFlight
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.client.target import Target
from tests.llm.endpoint import Choice, Fault, running


async def work(slots: InFlight, tasks: int, capacity: int | None = None) -> tuple[int, int]:
    """Returns the most tasks at once and the number of refusals, for an endpoint that refuses requests above its
    capacity."""
    busy = most = refused = 0

    async def one() -> None:
        nonlocal busy, most, refused
        async with slots:
            asked_at = time.monotonic()
            busy += 1
            most = max(most, busy)
            over = capacity is not None and busy > capacity
            await asyncio.sleep(0.005)
            busy -= 1
            refused += over
            if over:
                slots.overloaded(asked_at)
            else:
                slots.succeeded()

    await asyncio.gather(*(one() for _ in range(tasks)))
    return most, refused


def test_the_limit_starts_small_and_grows_to_its_maximum() -> None:
    slots = InFlight(64, adaptive=True)
    assert slots.limit == START
    most, _ = asyncio.run(work(slots, 600))
    assert most == 64 and slots.limit == 64


def test_the_limit_settles_near_the_capacity_of_the_endpoint() -> None:
    slots = InFlight(256, adaptive=True)
    _, refused = asyncio.run(work(slots, 3000, capacity=30))
    assert 12 <= slots.limit <= 40 and refused < 300


def test_one_overload_halves_once_for_all_requests_in_flight() -> None:
    slots = InFlight(64, adaptive=True)
    asyncio.run(work(slots, 600))
    asked_at = time.monotonic()
    for _ in range(64):
        slots.overloaded(asked_at)
    assert slots.limit == 32


def test_a_fixed_limit_neither_grows_nor_shrinks() -> None:
    slots = InFlight(5)
    most, refused = asyncio.run(work(slots, 100, capacity=2))
    assert most == 5 and refused > 0 and slots.limit == 5


def test_a_cancelled_waiter_passes_its_turn_on() -> None:
    async def main() -> None:
        slots = InFlight(1)

        async def hold(seconds: float) -> None:
            async with slots:
                await asyncio.sleep(seconds)

        holder = asyncio.create_task(hold(0.05))
        await asyncio.sleep(0)
        cancelled, last = asyncio.create_task(hold(9)), asyncio.create_task(hold(0))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait_for(asyncio.gather(holder, last), 5)

    asyncio.run(main())


@pytest.mark.parametrize(("limited", "fewest", "most"), [(False, 0, 16), (True, 32, 32)])
def test_an_overloaded_endpoint_gets_fewer_requests_unless_its_limit_is_configured(
    limited: bool, fewest: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a configured limit a 429 delays its own request and no other."""
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    limits = Limits(in_flight=32, requests_per_minute=60_000 if limited else None)

    def crowded(body: dict[str, Any], n: int) -> Fault | Choice:
        return Fault(429) if seen.in_flight > 8 and n < 3 else Choice("x", delay_s=0.05)

    with running(crowded) as seen:
        endpoint = Endpoint(model="m", limits=limits, max_attempts=9)

        async def main() -> tuple[list[Reply], int]:
            client = OpenAIClient(Target("teacher", endpoint, seen.url), Meter())
            asked = (client.chat([{"role": "user", "content": str(n)}], seed=n, kind="x") for n in range(120))
            replies = await asyncio.gather(*asked)
            await client.close()
            return replies, client._in_flight.limit

        replies, limit = asyncio.run(main())
    assert {reply.text for reply in replies} == {"x"}
    assert fewest <= limit <= most
