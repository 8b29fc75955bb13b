"""Requests of one role with retries, limits, usage and cache, for any engine.

`extra_body` is merged over the request, so it can also replace a parameter. Example for a reasoning model that accepts
no temperature but 1: `extra_body: {temperature: 1}`.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tapir_ray.config import Price, Sampling
from tapir_ray.data.schemas import BUDGET_USED_UP, FAILED, Message
from tapir_ray.llm.budget.usage import Count, Meter
from tapir_ray.llm.client.concurrency import InFlight
from tapir_ray.llm.client.failures import FAILURES, failed_reply, may_be_paid, overloaded, refuses_format, retry
from tapir_ray.llm.client.reply import Reply, Understood, understand
from tapir_ray.llm.client.request import request_body, request_key, worst_case
from tapir_ray.llm.client.target import Target

if TYPE_CHECKING:
    from tapir_ray.llm.client.cache import Cache


FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0


class FormatRefused(Exception):
    """The endpoint does not accept the `response_format`; `reply` has its reason."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.reason)
        self.reply = reply


@dataclass
class Pause:
    """Pause that an endpoint has asked for (`Retry-After`), shared by all requests of a role in a worker."""

    until: float = field(default=0.0)

    async def over(self) -> None:
        """Waits for the end of the pause."""
        # A loop, because another reply may extend the pause meanwhile.
        while (left := self.until - time.monotonic()) > 0:
            await asyncio.sleep(left)


class Client(ABC):
    """Client for the chat requests of one role. Belongs to the event loop of its first use."""

    def __init__(
        self, target: Target, meter: Meter, in_flight: InFlight | None = None, cache: Cache | None = None
    ) -> None:
        self.target = target
        self._meter = meter
        self._in_flight = in_flight or slots(target)
        self._cache = cache
        self._pause = Pause()
        self._timeout_s: float | None = target.endpoint.timeout_s
        self._price = target.endpoint.known_price or Price()
        self._plain = target.plain

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling | None = None,
        seed: int | None = None,
        kind: str,
        response_format: dict[str, Any] | None = None,
        or_plain: bool = True,
        top_logprobs: int | None = None,
    ) -> Reply:
        """Returns the reply to one request, after up to `max_attempts` attempts. Errors are replies too, not raised.

        429, 5xx, timeouts and broken connections are tried again after an exponential, jittered pause of at least
        `Retry-After`; every other error is permanent. A cached reply to the same request is returned without cost,
        but never for a request with a temperature and without a seed. `kind` is the kind of request in the usage.

        If the endpoint refuses the `response_format`, the request is sent again without it, and so are all later
        requests. With `or_plain=False` the reply is the refusal instead.

        `top_logprobs` asks for the likeliest first tokens (`Reply.logprobs`). A reply that has them is ok also if it is
        cut off after that token.
        """
        own = "response_format" in self.target.endpoint.extra_body
        if response_format is None or own or (or_plain and self._plain):
            return await self._chat(messages, sampling, seed, kind, top_logprobs=top_logprobs)
        try:
            return await self._chat(messages, sampling, seed, kind, response_format)
        except FormatRefused as refused:
            if not or_plain:
                return refused.reply
        reply = await self._chat(messages, sampling, seed, kind)
        if reply.status != FAILED and not self._plain:
            # Only the success without the format shows that the format was the cause of the refusal.
            self._plain = True
            await self._meter.asks_plainly(self.target.role)
        return reply

    async def _chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None,
        seed: int | None,
        kind: str,
        response_format: dict[str, Any] | None = None,
        top_logprobs: int | None = None,
    ) -> Reply:
        endpoint = self.target.endpoint
        body = request_body(endpoint, messages, sampling or endpoint.sampling, seed, response_format, top_logprobs)
        # Without a seed, each sampled reply is meant to be a new one.
        if self._cache is None or (seed is None and body["temperature"]):
            return await self._ask(body, kind)
        key = request_key(self.target.scope, body)
        reply, served = await self._cache.answer(key, lambda: self._ask(body, kind))
        if served:
            self._meter.record(self.target.role, Count(kind, cached_requests=1))
        return reply

    def reject(self, reply: Reply) -> None:
        """Rejects a reply that could not be used (no score, no label): the cache does not return it again."""
        if self._cache is not None:
            self._cache.reject(reply)

    async def _ask(self, body: dict[str, Any], kind: str) -> Reply:
        endpoint = self.target.endpoint
        worst = worst_case(body)
        for attempt in range(1, endpoint.max_attempts + 1):
            async with self._in_flight:
                await self._pause.over()
                lease = await self._meter.lease(self.target.role, *worst, self._lease_id(body))
                if lease is None:
                    return Reply(None, status=FAILED, reason=BUDGET_USED_UP)
                asked_at = time.monotonic()
                pause = None
                try:
                    async with asyncio.timeout(self._timeout_s):
                        completion = await self.generate(body)
                except FAILURES as error:
                    again, pause = retry(error)
                    got = Understood(
                        failed_reply(error, endpoint.timeout_s),
                        Count(kind, requests=1),
                        known=not may_be_paid(error),
                        attempts=None if again else 1,
                        overloaded=overloaded(error),
                    )
                    refused = self._asks_for("response_format", body) and refuses_format(error)
                else:
                    got, refused = understand(completion, endpoint, kind, self._asks_for("top_logprobs", body)), False
                    if not got.overloaded:
                        self._in_flight.succeeded()
                if got.overloaded:
                    self._in_flight.overloaded(asked_at)
            most = min(endpoint.max_attempts, got.attempts or endpoint.max_attempts)
            last = attempt >= most
            failed = int(last and got.reply.status == FAILED and not refused)
            count = replace(got.count.priced(self._price), failed=failed)
            self._meter.record(self.target.role, count, lease, got.known)
            if refused:
                raise FormatRefused(got.reply)
            if last:
                return got.reply
            if pause is not None and not self.target.limited:
                # With known limits the ledger paces requests, and only this one waits.
                self._pause.until = max(self._pause.until, time.monotonic() + pause)
            # Jitter spreads the requests that failed at the same moment.
            backoff = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (attempt - 1))
            await asyncio.sleep(max(backoff * random.uniform(0.5, 1.0), pause or 0.0))
        raise AssertionError("the last attempt returns")

    def _asks_for(self, parameter: str, body: dict[str, Any]) -> bool:
        """Whether the caller has asked for a parameter; `extra_body` may send it with every request."""
        return parameter in body and parameter not in self.target.endpoint.extra_body

    def _lease_id(self, body: dict[str, Any]) -> str | None:
        return None

    @abstractmethod
    async def generate(self, body: dict[str, Any]) -> Any:
        """Returns the chat completion of a request, both as JSON values of the OpenAI protocol.

        Raises one of `failures.FAILURES`: RequestFailed for an engine whose protocol has no errors of its own.
        """

    async def close(self) -> None:  # noqa: B027 (a client may hold nothing open)
        """Closes open connections."""


def slots(target: Target, workers: int = 1) -> InFlight:
    """Returns the share of one worker in the requests in flight; adaptive if the limits of the endpoint are unknown."""
    spec = target.endpoint.spec
    adaptive = not (spec.local or spec.batch_s or target.limited)
    return InFlight(max(1, target.endpoint.limits.in_flight // workers), adaptive)
