"""Requests to a judge, repeated until a reply can be read, at other seeds and a temperature above 0."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tapir_ray.config import Sampling
from tapir_ray.data import schemas
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import CUT_OFF, REFUSED, Reply

Parsed = TypeVar("Parsed")

RETRY_TEMPERATURE = 0.7
"""Lowest temperature of a repeated question: at 0 an endpoint would repeat its reply whatever the seed."""


class NotJudged(Exception):
    """Raised if the judge gives no scores; `status` and `reason` are for the row."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """Returns the results of all calls; raises the first error once every call has ended."""
    # `gather` alone would raise at once and leave requests running, whose usage would be counted too late.
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def ask_until_parsed(
    client: Client,
    ask: Callable[[int], Awaitable[Reply]],
    parse: Callable[[Reply], Parsed | None],
    attempts: int,
    unparsed: str,
) -> tuple[Parsed, str]:
    """Returns (what `parse` finds in the judge's reply, its text), asking up to `attempts` times.

    `ask` sends the request of an attempt, counted from 0. Raises NotJudged with the reason `unparsed` if no reply could
    be read, and at once for a refusal or a failed request.
    """
    reason = unparsed
    for attempt in range(attempts):
        reply = await ask(attempt)
        if reply.status == schemas.FAILED or reply.reason == REFUSED:
            raise NotJudged(reply.status, f"judge_{reply.reason}" if reply.reason == REFUSED else str(reply.reason))
        # A cut-off reply may end in the middle of a score: `Score: 1` could have become a 10.
        parsed = parse(reply) if reply.status == schemas.OK else None
        if parsed is not None:
            return parsed, reply.text or ""
        # Else the response cache would serve the same useless reply to the next attempt of the run.
        client.reject(reply)
        reason = f"{unparsed}: {CUT_OFF}" if reply.reason == CUT_OFF else unparsed
    raise NotJudged(schemas.FAILED, reason)


def sampling_of(client: Client, attempt: int, lowest: float = 0.0) -> Sampling:
    """Returns the endpoint's sampling with a temperature of at least `lowest`; after attempt 0 also of at least
    RETRY_TEMPERATURE."""
    own = client.target.endpoint.sampling
    temperature = max(own.temperature, lowest, RETRY_TEMPERATURE if attempt else 0.0)
    return own.model_copy(update={"temperature": temperature})


def seed_of(*parts: str) -> int:
    """Returns the seed of a request, 0 ≤ seed < 2³¹: a hash of its ids and attempt."""
    return int(schemas.order_key(parts[0], 0, *parts[1:])[:8], 16) >> 1
