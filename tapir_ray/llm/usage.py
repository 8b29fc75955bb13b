"""What the endpoints are asked and what it costs: limits over all workers, tokens by role, price and budget.

    actor = start(run_id, accounts, Budget(max_cost=5.0))     # on the driver; one actor a run, no CPU of its own
    meter = Meter(actor, leased={"teacher"})                  # in each worker
    if await meter.lease("teacher", tokens=1200): ...         # waits for its turn; False once the budget is used up
    meter.record("teacher", Count(kind="expand", requests=1, input_tokens=80, output_tokens=40))

A worker asks for leases of all its waiting requests at once and reports in batches, so a run without limits and budget
makes no call to the actor for a request.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import ray

from tapir_ray.config import Budget, Limits, Price

NAMESPACE = "tapir"


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
    reserved_tokens: int = 0
    """Tokens that were leased for these requests; the difference to those used goes back to the limit."""

    def __add__(self, other: Count) -> Count:
        mine, others = asdict(self), asdict(other)
        return replace(self, **{key: mine[key] + others[key] for key in mine if key != "kind"})

    def cost(self, price: Price) -> float:
        """US dollars: cached input and reasoning at their own price where there is one."""
        cached = price.input if price.cached_input is None else price.cached_input
        reasoning = price.output if price.reasoning is None else price.reasoning
        return (
            (self.input_tokens - self.cached_tokens) * price.input
            + self.cached_tokens * cached
            + (self.output_tokens - self.reasoning_tokens) * price.output
            + self.reasoning_tokens * reasoning
        ) / 1e6


@dataclass(frozen=True)
class Account:
    """How a role is counted: roles of one `group` share limits, each has its own usage and price."""

    group: str
    limits: Limits
    price: Price


class Bucket:
    """A token bucket that gives out at most `per_minute` in any 60 seconds, at most a second's share at once.

    A single request above a second's share is let through when the bucket is full and paid off afterwards, so a window
    can exceed the limit by at most one such request.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.capacity = max(1.0, per_minute / 60)
        self.per_second = max(per_minute - self.capacity, per_minute / 2) / 60
        self.level = self.capacity
        self.at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken; 0 if it can be now."""
        self.level = min(self.capacity, self.level + max(0.0, now - self.at) * self.per_second)
        self.at = now
        missing = min(amount, self.capacity) - self.level
        return missing / self.per_second if missing > 1e-6 else 0.0

    def take(self, amount: float) -> None:
        """Take `amount`, or give it back where it is negative."""
        self.level = min(self.capacity, self.level - amount)


class Ledger:
    """The state of the usage actor, a plain class: leases, counts by role and kind, cost and budget."""

    def __init__(
        self, accounts: Mapping[str, Account], budget: Budget, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._accounts = dict(accounts)
        self._budget = budget
        self._clock = clock
        self._counts: dict[str, dict[str, Count]] = defaultdict(dict)
        now = clock()
        groups = {account.group: account.limits for account in accounts.values()}
        self._requests = {
            group: Bucket(limits.requests_per_minute, now)
            for group, limits in groups.items()
            if limits.requests_per_minute is not None
        }
        self._tokens = {
            group: Bucket(limits.tokens_per_minute, now)
            for group, limits in groups.items()
            if limits.tokens_per_minute is not None
        }

    def lease(self, role: str, tokens: Sequence[int]) -> tuple[int, float]:
        """Leases for waiting requests of these worst-case token counts, in order.

        Returns how many were granted, from the front, and the seconds after which to ask for the rest; infinite once
        the budget is used up.
        """
        if self.exhausted():
            return 0, math.inf
        group = self._accounts[role].group
        now = self._clock()
        for granted, cost in enumerate(tokens):
            buckets = [(self._requests.get(group), 1.0), (self._tokens.get(group), float(cost))]
            wait = max((bucket.wait(amount, now) for bucket, amount in buckets if bucket is not None), default=0.0)
            if wait > 0.0:
                return granted, wait
            for bucket, amount in buckets:
                if bucket is not None:
                    bucket.take(amount)
        return len(tokens), 0.0

    def record(self, counts: Sequence[tuple[str, Count]]) -> None:
        """Add what workers report, as (role, count)."""
        for role, count in counts:
            bucket = self._tokens.get(self._accounts[role].group)
            if bucket is not None:
                bucket.take(count.input_tokens + count.output_tokens - count.reserved_tokens)
            kinds = self._counts[role]
            kinds[count.kind] = kinds.get(count.kind, Count(count.kind)) + count

    def exhausted(self) -> bool:
        """Whether `budget.max_cost` or `budget.max_tokens` is reached."""
        usage = self.snapshot().values()
        cost = sum(role["cost"] for role in usage)
        tokens = sum(role["input_tokens"] + role["output_tokens"] for role in usage)
        return (self._budget.max_cost is not None and cost >= self._budget.max_cost) or (
            self._budget.max_tokens is not None and tokens >= self._budget.max_tokens
        )

    def snapshot(self) -> dict[str, dict[str, float]]:
        """By role: requests, tokens (input, cached, output, reasoning: `input_tokens` …), failed, cost (US dollars)."""
        total: dict[str, dict[str, float]] = {}
        for role, account in self._accounts.items():
            count = sum(self._counts[role].values(), Count("all"))
            total[role] = {**_numbers(count), "cost": count.cost(account.price)}
        return total

    def by_kind(self) -> dict[str, dict[str, dict[str, int]]]:
        """By role and kind of request, the same numbers without the cost."""
        return {role: {kind: _numbers(count) for kind, count in self._counts[role].items()} for role in self._accounts}

    def counts(self) -> list[tuple[str, Count]]:
        """Everything recorded so far, as `record` takes it: for a ledger that goes on from this one."""
        return [
            (role, replace(count, reserved_tokens=0)) for role in self._counts for count in self._counts[role].values()
        ]


def _numbers(count: Count) -> dict[str, Any]:
    names = [field.name for field in fields(count) if field.name not in ("kind", "reserved_tokens")]
    return {name: getattr(count, name) for name in names}


def start(run_id: str, accounts: Mapping[str, Account], budget: Budget) -> Any:
    """The handle of a new usage actor named `usage-RUN_ID`; it ends with the driver or by `ray.kill`."""
    actor = ray.remote(num_cpus=0)(Ledger)
    return actor.options(name=f"usage-{run_id}", namespace=NAMESPACE).remote(accounts, budget)


class Meter:
    """A worker's side of the usage actor. Without an actor it grants everything and keeps its counts to itself."""

    def __init__(self, actor: Any | None = None, leased: Collection[str] = ()) -> None:
        """`leased` names the roles whose requests need a lease: those with a limit, all of them under a budget."""
        self._actor = actor
        self._leased = frozenset(leased)
        self._pending: dict[tuple[str, str], Count] = {}
        self._waiting: dict[str, list[tuple[int, asyncio.Future[bool]]]] = defaultdict(list)
        self._pumps: dict[str, asyncio.Task[None]] = {}

    async def lease(self, role: str, tokens: int) -> bool:
        """Wait for a lease of one request of up to `tokens` tokens; False if the budget is used up."""
        if self._actor is None or role not in self._leased:
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[role].append((tokens, turn))
        if role not in self._pumps:
            self._pumps[role] = asyncio.create_task(self._pump(role))
        return await turn

    async def _pump(self, role: str) -> None:
        waiting = self._waiting[role]
        try:
            while waiting:
                await self.flush()
                granted, pause = await self._actor.lease.remote(role, [tokens for tokens, _ in waiting])  # type: ignore[union-attr]
                used_up = math.isinf(pause)
                turns = [waiting.pop(0) for _ in range(len(waiting) if used_up else granted)]
                for _, turn in turns:
                    if not turn.done():
                        turn.set_result(not used_up)
                if waiting:
                    await asyncio.sleep(min(pause, 1.0))
        except Exception as error:
            for _, turn in waiting:
                if not turn.done():
                    turn.set_exception(error)
            waiting.clear()
        finally:
            del self._pumps[role]

    def record(self, role: str, count: Count) -> None:
        """Add a count to the next report."""
        key = (role, count.kind)
        self._pending[key] = self._pending.get(key, Count(count.kind)) + count

    def pending(self) -> dict[tuple[str, str], Count]:
        """Counts not reported yet, by role and kind."""
        return dict(self._pending)

    async def flush(self) -> None:
        """Report what was recorded; returns when the actor has it."""
        if self._actor is None or not self._pending:
            return
        report = [(role, count) for (role, _), count in self._pending.items()]
        self._pending = {}
        await self._actor.record.remote(report)
