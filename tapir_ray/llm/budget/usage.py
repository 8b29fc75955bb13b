"""Usage and cost of requests, counted in each worker and reported to the usage actor (`llm/budget/actor.py`).

    meter = Meter(actor, leased={"teacher"})                       # in each worker
    lease = await meter.lease("teacher", input_tokens=900, output_tokens=256)
    if lease is None: ...                                          # the budget is used up
    meter.record("teacher", Count(kind="expand", requests=1, input_tokens=80, output_tokens=40), lease)

A worker asks for the leases of all its waiting requests in one call, and reports counts in batches. A run without
limits and without a budget needs no call before a request.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from tapir_ray.config import Limits, Price

BYTES_PER_TOKEN = 3
"""Estimate for the limits per minute until the real count is known. English has about 4, so this counts too many tokens
rather than too few. The budget counts every byte as a token."""
REPORT_S, LEASED_REPORT_S = 1.0, 0.1
"""Seconds that a count waits for its report. Shorter with leases: other requests may wait for the settlement."""


@dataclass(frozen=True)
class Count:
    """Usage of requests of one kind. `cached_tokens` are part of the input, `reasoning_tokens` part of the output."""

    kind: str
    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cached_requests: int = 0
    """Requests answered from the cache: not counted in `requests`, no tokens, no cost."""
    failed: int = 0
    """Requests without an answer after all attempts; `requests` counts every attempt that was sent."""
    surcharge: int = 0
    """Billionths of a US dollar above the base price, for requests that are long enough for a tier of the price."""

    def __add__(self, other: Count) -> Count:
        others = other.numbers()
        return Count(self.kind, **{key: value + others[key] for key, value in self.numbers().items()})

    def __neg__(self) -> Count:
        return Count(self.kind, **{key: -value for key, value in self.numbers().items()})

    @property
    def tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    def numbers(self) -> dict[str, int]:
        """Returns the counts by name."""
        return {key: value for key, value in vars(self).items() if key != "kind"}

    def cost(self, price: Price) -> float:
        """Returns the cost in US dollars, with the surcharge; never negative.

        Cached input and reasoning have their own price if `price` gives one. Tiers are in the surcharge already
        (`priced`), since they depend on the length of each request.
        """
        cached = price.input if price.cached_input is None else price.cached_input
        reasoning = price.output if price.reasoning is None else price.reasoning
        tokens = (
            (self.input_tokens - self.cached_tokens) * price.input
            + self.cached_tokens * cached
            + (self.output_tokens - self.reasoning_tokens) * price.output
            + self.reasoning_tokens * reasoning
        ) / 1e6
        return max(0.0, tokens + self.requests * price.request + self.surcharge / 1e9)

    def priced(self, price: Price) -> Count:
        """Returns the count of one request with the surcharge of its tier of the price."""
        if not price.tiers:
            return self
        return self.above(price.at(0), price.at(self.input_tokens))

    def above(self, base: Price, tier: Price) -> Count:
        """Returns the count with the difference between its costs at the prices `tier` and `base` as surcharge."""
        plain = replace(self, surcharge=0)
        more = plain.cost(tier) - plain.cost(base)
        # Rounded first, else the error of a float would add a whole billionth.
        return replace(self, surcharge=math.ceil(round(more * 1e9, 3)))


@dataclass(frozen=True)
class Lease:
    """Permission to send one request of at most `input_tokens` and `output_tokens`."""

    id: str
    input_tokens: int
    output_tokens: int

    @property
    def likely_tokens(self) -> int:
        """Tokens that count towards a limit per minute until the real count is known."""
        return self.input_tokens // BYTES_PER_TOKEN + self.output_tokens

    def count(self) -> Count:
        """Returns the worst case of the request."""
        return Count("worst", 1, input_tokens=self.input_tokens, output_tokens=self.output_tokens)


@dataclass(frozen=True)
class Account:
    """Limits and price of a role. Roles of one `group` share the limits; each role has its own usage and price."""

    group: str
    limits: Limits
    price: Price
    patience_s: float = 150.0
    """Seconds after which the worker of an unsettled lease is taken for dead; longer than any request takes."""


@dataclass(frozen=True)
class Report:
    """Counts that a worker sends to the actor. `number` rises with each report, so that a repeated one counts once."""

    worker: str
    number: int
    counts: list[tuple[str, Count]]
    settled: list[tuple[str, int | None]]
    """Pairs (lease id, tokens used); None if the usage is unknown, as after a timeout."""
    unknown: list[tuple[str, Lease]] = field(default_factory=list)
    """Pairs (role, worst case) of requests with unknown usage that needed no lease."""


class Meter:
    """Client of the usage actor in a worker. Without an actor it grants every lease and only collects counts."""

    def __init__(self, actor: Any | None = None, leased: Collection[str] = ()) -> None:
        """Takes the roles whose requests need a lease as `leased`: all under a budget, else those with a limit."""
        self._actor = actor
        self._leased = frozenset(leased)
        self._worker = uuid.uuid4().hex[:12]
        self._leases = self._reports = 0
        self._pending: dict[tuple[str, str], Count] = {}
        self._settled: list[tuple[str, int | None]] = []
        self._unknown: list[tuple[str, Lease]] = []
        self._reporting = asyncio.Lock()
        self._report_due: asyncio.Task[None] | None = None
        self._waiting: dict[str, list[tuple[Lease, asyncio.Future[bool]]]] = defaultdict(list)
        self._pumps: dict[str, asyncio.Task[None]] = {}

    async def lease(
        self, role: str, input_tokens: int, output_tokens: int, lease_id: str | None = None
    ) -> Lease | None:
        """Waits for a lease of one request; returns None if the budget is used up.

        `lease_id` identifies a request that outlives its worker (one in a batch). The worker that waits for it next
        asks for the same lease, so the request is counted once.
        """
        self._leases += 1
        lease = Lease(lease_id or f"{self._worker}-{self._leases}", input_tokens, output_tokens)
        if self._actor is None or role not in self._leased:
            return lease
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[role].append((lease, turn))
        if role not in self._pumps:
            self._pumps[role] = asyncio.create_task(self._pump(role))
        return lease if await turn else None

    async def _pump(self, role: str) -> None:
        waiting = self._waiting[role]
        try:
            while waiting:
                # Counts first: they settle leases, and so make room for these.
                await self.flush()
                granted, pause = await self._actor.lease.remote(role, [lease for lease, _ in waiting])  # type: ignore[union-attr]
                used_up = math.isinf(pause)
                turns = [waiting.pop(0) for _ in range(len(waiting) if used_up else granted)]
                for place, (_, turn) in enumerate(turns):
                    if not turn.done():
                        turn.set_result(place < granted)
                if waiting:
                    # At most 1 s, since a settled lease can make room earlier than the actor has estimated.
                    await asyncio.sleep(min(pause, 1.0))
        except Exception as error:
            for _, turn in waiting:
                if not turn.done():
                    turn.set_exception(error)
            waiting.clear()
        finally:
            del self._pumps[role]

    def record(self, role: str, count: Count, lease: Lease | None = None, known: bool = True) -> None:
        """Adds a count to the next report and settles its lease.

        `known` is False for a request that may have been billed with an unknown usage: its worst case is counted.
        """
        key = (role, count.kind)
        self._pending[key] = self._pending.get(key, Count(count.kind)) + count
        if self._actor is None:
            return
        if lease is not None and role in self._leased:
            self._settled.append((lease.id, count.tokens if known else None))
        elif lease is not None and not known:
            self._unknown.append((role, lease))
        if self._report_due is None or self._report_due.done():
            self._report_due = asyncio.create_task(self._report_later(role in self._leased))

    async def _report_later(self, soon: bool) -> None:
        await asyncio.sleep(LEASED_REPORT_S if soon else REPORT_S)
        try:
            await self.flush()
        except ray.exceptions.RayError:
            return  # the actor may have ended with the roles; the counts stay pending, and the next flush raises

    async def asks_plainly(self, role: str) -> None:
        """Tells the actor that the endpoint of a role refuses a `response_format`, so later stages send none."""
        if self._actor is not None:
            await self._actor.note_plain.remote(role)

    def pending(self) -> dict[tuple[str, str], Count]:
        """Returns the counts that are not reported yet, by (role, kind)."""
        return dict(self._pending)

    async def flush(self) -> None:
        """Sends a report of all recorded counts; returns when the actor has it. Raises ray's errors if it cannot."""
        if self._actor is None:
            return
        async with self._reporting:
            if not self._pending:
                return
            counts, settled, unknown = self._pending, self._settled, self._unknown
            self._pending, self._settled, self._unknown = {}, [], []
            self._reports += 1
            listed = [(role, count) for (role, _), count in counts.items()]
            try:
                await self._actor.record.remote(Report(self._worker, self._reports, listed, settled, unknown))
            except BaseException:
                # Also for a cancelled task: counts that are lost here would be missing in the budget.
                for key, count in counts.items():
                    self._pending[key] = self._pending.get(key, Count(count.kind)) + count
                self._settled, self._unknown = settled + self._settled, unknown + self._unknown
                raise
