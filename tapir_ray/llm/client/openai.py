"""One role's requests over the OpenAI protocol: retries, limits, usage, and a reply that says what became of it.

    client = Client(Target("teacher", endpoint, base_url, key), meter, InFlight(64))
    reply = await client.chat([{"role": "user", "content": "…"}], seed=7, kind="respond")

`extra_body` is merged over the request, so it can also replace a parameter (a reasoning model that accepts no
temperature but 1: `extra_body: {temperature: 1}`).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import openai

from tapir_ray.config import Price, Sampling
from tapir_ray.data.schemas import BUDGET_USED_UP, FAILED, FILTERED, Message
from tapir_ray.errors.redaction import redacted
from tapir_ray.llm.budget.usage import Count, Meter
from tapir_ray.llm.client.concurrency import InFlight
from tapir_ray.llm.client.faults import is_policy
from tapir_ray.llm.client.reply import REFUSED, Reply, Understood, understand
from tapir_ray.llm.client.request import request_body, request_key, worst_case
from tapir_ray.llm.client.target import Target

if TYPE_CHECKING:
    from tapir_ray.llm.client.cache import Cache


FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0


class BadReply(Exception):
    """An HTTP success whose body is no JSON."""


_FORMAT_STATUS = (400, 404, 415, 422, 500, 501)
_NAMES_FORMAT = re.compile(
    r"response[ _]?(?:format|schema|mime)|json[ _]?(?:schema|object|mode|validate)|(?:generate|valid) json"
    r"|structured.?output|guided.?(?:decoding|json)|grammar|requested parameters"
    r"|un(?:supported|known|recogni[sz]ed|expected) (?:request )?(?:parameter|argument|field|key)"
    r"|extra (?:inputs|fields) (?:are )?not permitted|additional properties are not allowed",
    re.IGNORECASE,
)
"""How endpoints refuse a `response_format`."""


class LineError(Exception):
    """A request that failed in a batch; `again` where asking again may help."""

    def __init__(self, message: str, again: bool) -> None:
        super().__init__(message)
        self.again = again


class FormatRefused(Exception):
    """The endpoint does not take the `response_format`; `reply` says how it refuses."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.reason)
        self.reply = reply


@dataclass
class Pause:
    """Until when a role waits because its endpoint said so (`Retry-After`); shared by its requests in a worker."""

    until: float = field(default=0.0)

    async def over(self) -> None:
        while (left := self.until - time.monotonic()) > 0:
            await asyncio.sleep(left)


class Client:
    """Chat requests of one role. Belongs to the event loop it is first used in."""

    def __init__(
        self, target: Target, meter: Meter, in_flight: InFlight | None = None, cache: Cache | None = None
    ) -> None:
        self.target = target
        self._meter = meter
        self._in_flight = in_flight or slots(target)
        self._cache = cache
        self._pause = Pause()
        self._openai = connect(target)
        self._headers = headers(target)
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
    ) -> Reply:
        """Ask once, with as many attempts as the endpoint allows; never raises for what an endpoint does.

        A stored reply to the same request is given instead, without cost; a request without a seed and with a
        temperature is a new one each time. 429, 5xx, timeouts and broken connections are tried again after an
        exponential, jittered pause of at least `Retry-After`; every other error is permanent. `kind` is the kind of
        request in the usage.

        A `response_format` that the endpoint refuses is left out, and with `or_plain` it is for all later requests.
        Without `or_plain` the reply is the refusal.
        """
        own = "response_format" in self.target.endpoint.extra_body
        if response_format is None or own or (or_plain and self._plain):
            return await self._chat(messages, sampling, seed, kind)
        try:
            return await self._chat(messages, sampling, seed, kind, response_format)
        except FormatRefused as refused:
            if not or_plain:
                return refused.reply
        reply = await self._chat(messages, sampling, seed, kind)
        if reply.status != FAILED and not self._plain:
            # Only now is it known that the format was to blame, and not the rest of the request.
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
    ) -> Reply:
        endpoint = self.target.endpoint
        body = request_body(endpoint, messages, sampling or endpoint.sampling, seed, response_format)
        if self._cache is None or (seed is None and body["temperature"]):
            return await self._ask(body, kind)
        key = request_key(self.target.scope, body)
        reply, served = await self._cache.answer(key, lambda: self._ask(body, kind))
        if served:
            self._meter.record(self.target.role, Count(kind, cached_requests=1))
        return reply

    def reject(self, reply: Reply) -> None:
        """Say that a reply is of no use (no score, no label): it is not served again."""
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
                        completion = await self._send(body)
                except (openai.OpenAIError, TimeoutError, BadReply, LineError) as error:
                    retry, pause = _retry(error)
                    got = Understood(
                        self._failure(error),
                        Count(kind, requests=1),
                        known=not _may_be_paid(error),
                        attempts=None if retry else 1,
                        overloaded=_overloaded(error),
                    )
                    refused = self._asks_for_format(body) and _refuses_format(error)
                else:
                    got, refused = understand(completion, endpoint, kind), False
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
                self._pause.until = max(self._pause.until, time.monotonic() + pause)
            backoff = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (attempt - 1))
            await asyncio.sleep(max(backoff * random.uniform(0.5, 1.0), pause or 0.0))
        raise AssertionError("the last attempt returns")

    def _asks_for_format(self, body: dict[str, Any]) -> bool:
        return "response_format" in body and "response_format" not in self.target.endpoint.extra_body

    def _lease_id(self, body: dict[str, Any]) -> str | None:
        return None

    async def _send(self, body: dict[str, Any]) -> Any:
        """The reply's JSON. The client's own typed models cost as much as the whole request otherwise does.

        Raises BadReply for a body that is none.
        """
        options: Any = {"headers": self._headers}
        text = await self._openai.post("/chat/completions", cast_to=str, body=body, options=options)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            streams = "a stream" if text.lstrip().startswith("data:") else "no JSON"
            raise BadReply(f"the endpoint answers with {streams}: {text[:200]!r}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()

    def _failure(self, error: BaseException) -> Reply:
        if isinstance(error, openai.APIStatusError) and error.status_code < 500 and is_policy(error.code, error.type):
            return Reply(None, status=FILTERED, reason=REFUSED, finish_reason="content_filter")
        if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
            # The aiohttp transport reports a refused connection as a timeout; its cause says what happened.
            error = error.__cause__
        message = " ".join(str(error).split()) or f"no reply within {self.target.endpoint.timeout_s:g} s"
        return Reply(None, status=FAILED, reason=f"{type(error).__name__}: {redacted(message)[:500]}")


def slots(target: Target, workers: int = 1) -> InFlight:
    """One worker's share of what may be in flight to an endpoint; found by trying where its limits are unknown."""
    adaptive = target.endpoint.engine == "openai" and not target.limited
    return InFlight(max(1, target.endpoint.limits.in_flight // workers), adaptive)


def connect(target: Target) -> openai.AsyncOpenAI:
    """A client of the target's endpoint on the aiohttp transport, without retries of its own.

    Proxies of the environment are not used for loopback.
    """
    loopback = urlsplit(target.base_url or "").hostname in ("127.0.0.1", "localhost", "::1")
    return openai.AsyncOpenAI(
        api_key="-" if target.key is None else target.key.reveal(),
        base_url=target.base_url,
        timeout=target.endpoint.timeout_s,
        max_retries=0,
        http_client=openai.DefaultAioHttpClient(trust_env=not loopback),
    )


def headers(target: Target) -> dict[str, Any]:
    """`extra_headers` of a request: without a key no Authorization header is sent."""
    return {"Authorization": openai.Omit()} if target.key is None else {}


def _may_be_paid(error: BaseException) -> bool:
    """Whether a request that ended so may have been answered, and be paid for, though nobody knows with how much."""
    if isinstance(error, openai.APIConnectionError):
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ConnectionRefusedError | socket.gaierror):
                return False
            cause = cause.__cause__ or cause.__context__
        return True
    return not isinstance(error, openai.APIStatusError | LineError)


def _retry(error: Exception) -> tuple[bool, float | None]:
    """Whether to try again, and the seconds the endpoint asked to wait."""
    if isinstance(error, openai.APIStatusError):
        again = error.status_code in (408, 409, 429) or error.status_code >= 500
        return again and error.code != "insufficient_quota", _retry_after(error)
    if isinstance(error, LineError):
        return error.again, None
    transient = (
        openai.APIConnectionError,
        openai.APIResponseValidationError,
        TimeoutError,
        BadReply,
    )
    return isinstance(error, transient), None


def _refuses_format(error: Exception) -> bool:
    """Whether a request with a `response_format` failed because of it."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _FORMAT_STATUS and _NAMES_FORMAT.search(str(error)) is not None
    return isinstance(error, LineError) and _NAMES_FORMAT.search(str(error)) is not None


def _overloaded(error: Exception) -> bool:
    """Whether fewer requests at once might have helped."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (429, 503)
    return isinstance(error, TimeoutError | openai.APITimeoutError)


def _retry_after(error: openai.APIStatusError) -> float | None:
    received = error.response.headers
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = received.get(name)
        if value is None:
            continue
        if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
            return float(value) / unit
        when = email.utils.parsedate_tz(value)
        if when is not None:
            return max(0.0, email.utils.mktime_tz(when) - time.time())
    return None
