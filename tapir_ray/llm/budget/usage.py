"""What requests use and cost, and the worker's side of counting it; the other side is `llm/usage_actor.py`.

    meter = Meter(actor, leased={"teacher"})                       # in each worker
    lease = await meter.lease("teacher", input_tokens=900, output_tokens=256)
    if lease is None: ...                                          # the budget is used up
    meter.record("teacher", Count(kind="expand", requests=1, input_tokens=80, output_tokens=40), lease)

A worker asks for leases of all its waiting requests at once and reports in batches, so a run without limits and budget
makes no call to the actor for a request.
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
"""For the tokens that a limit per minute is charged before the real count is known; low, so that it is rather too
many. The budget counts every byte as a token."""
REPORT_S, LEASED_REPORT_S = 1.0, 0.1
"""How long a count waits for its report; shorter where other requests may wait for it to be settled."""


@dataclass(frozen=True)
class Count:
    """What some requests of one kind used. `cached_tokens` are part of the input, `reasoning_tokens` of the output."""

    kind: str
    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cached_requests: int = 0
    """Questions that an equal request had answered: no request, no tokens, no cost."""
    failed: int = 0
    """Questions that ended without an answer; `requests` counts every attempt that was sent."""
    surcharge: int = 0
    """Billionths of a US dollar above the base price, of requests that were long enough for a tier of the price."""

    def __add__(self, other: Count) -> Count:
        others = other.numbers()
        return Count(self.kind, **{key: value + others[key] for key, value in self.numbers().items()})

    def __neg__(self) -> Count:
        return Count(self.kind, **{key: -value for key, value in self.numbers().items()})

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def numbers(self) -> dict[str, int]:
        """The counts by name."""
        return {key: value for key, value in vars(self).items() if key != "kind"}

    def cost(self, price: Price) -> float:
        """US dollars: cached input and reasoning at their own price if there is one, and the surcharge; never negative.

        The tiers of the price are in the surcharge already (`priced`), since each request has its own.
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
        """The count of one request, with what its tier of the price costs above the price without tiers."""
        if not price.tiers:
            return self
        return self.above(price.at(0), price.at(self.input_tokens))

    def above(self, base: Price, tier: Price) -> Count:
        """The count with what it costs more at the price of `tier` than at that of `base`."""
        plain = replace(self, surcharge=0)
        more = plain.cost(tier) - plain.cost(base)
        return replace(self, surcharge=math.ceil(round(more * 1e9, 3)))


@dataclass(frozen=True)
class Lease:
    """Leave to send one request that uses at most so many tokens."""

    id: str
    input_tokens: int
    output_tokens: int

    @property
    def likely_tokens(self) -> int:
        """What a limit per minute is charged until the real count is known."""
        return self.input_tokens // BYTES_PER_TOKEN + self.output_tokens

    def count(self) -> Count:
        """The worst case of the request."""
        return Count("worst", 1, input_tokens=self.input_tokens, output_tokens=self.output_tokens)


@dataclass(frozen=True)
class Account:
    """How a role is counted: roles of one `group` share limits, each has its own usage and price."""

    group: str
    limits: Limits
    price: Price
    patience_s: float = 150.0
    """A lease that is not settled for so long is that of a worker that died; longer than any request takes."""


@dataclass(frozen=True)
class Report:
    """What a worker tells the actor; `number` rises with each report, so that one which comes twice counts once."""

    worker: str
    number: int
    counts: list[tuple[str, Count]]
    settled: list[tuple[str, int | None]]
    """(lease, tokens used); None where nobody knows what the request used, such as one that timed out."""
    unknown: list[tuple[str, Lease]] = field(default_factory=list)
    """Requests of which nobody knows what they used, and that needed no lease."""


class Meter:
    """A worker's side of the usage actor. Without an actor it grants everything and keeps its counts to itself."""

    def __init__(self, actor: Any | None = None, leased: Collection[str] = ()) -> None:
        """`leased` names the roles whose requests need a lease: those with a limit, all of them under a budget."""
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
        """Wait for a lease of one request of at most so many tokens; None if the budget is used up.

        `lease_id` is given for a request that goes on when its worker dies: who waits for it next asks for the same.
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
                await self.flush()
                granted, pause = await self._actor.lease.remote(role, [lease for lease, _ in waiting])  # type: ignore[union-attr]
                used_up = math.isinf(pause)
                turns = [waiting.pop(0) for _ in range(len(waiting) if used_up else granted)]
                for place, (_, turn) in enumerate(turns):
                    if not turn.done():
                        turn.set_result(place < granted)
                if waiting:
                    await asyncio.sleep(min(pause, 1.0))
        except Exception as error:
            for _, turn in waiting:
                if not turn.done():
                    turn.set_exception(error)
            waiting.clear()
        finally:
            del self._pumps[role]

    def record(self, role: str, count: Count, lease: Lease | None = None, known: bool = True) -> None:
        """Add a count to the next report, and settle its lease.

        `known` is False if the request may have been paid for and nobody knows how much: its worst case is counted.
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
            return  # the roles were closed; the report is still pending, and the next flush says so

    async def asks_plainly(self, role: str) -> None:
        """Tell the actor that a role's endpoint refuses a `response_format`: later stages do not ask for it."""
        if self._actor is not None:
            await self._actor.note_plain.remote(role)

    def pending(self) -> dict[tuple[str, str], Count]:
        """Counts not reported yet, by role and kind."""
        return dict(self._pending)

    async def flush(self) -> None:
        """Report what was recorded; returns when the actor has it."""
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
                for key, count in counts.items():
                    self._pending[key] = self._pending.get(key, Count(count.kind)) + count
                self._settled, self._unknown = settled + self._settled, unknown + self._unknown
                raise
