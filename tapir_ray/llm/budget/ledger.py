"""Ledger of a run: leases under its limits, usage by role, and a budget that is never exceeded.

The budget covers all attempts of a run. RUN/usage/ATTEMPT.json holds the usage of each attempt, and a later attempt
starts from their sum.

A lease reserves the worst case of its request, and the record of the request replaces the reservation by the real
usage. A request that does not fit waits for the reservations of others. If it does not fit although nothing is
reserved, the budget is used up for good. Example: with 1,000 tokens left and 800 reserved, a request of 300 waits.

Under a budget a lease is written to storage before it is granted. So no spending is lost when the actor, the driver or
the machine dies: a request without a record counts with its worst case (`unsettled`).
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tapir_ray.config import Budget, Price
from tapir_ray.llm.budget import saving
from tapir_ray.llm.budget.files import UsageFiles, counts_in, listed, unsettled_in
from tapir_ray.llm.budget.saving import Saving
from tapir_ray.llm.budget.usage import Account, Count, Lease, Report
from tapir_ray.llm.client.token_bucket import Bucket

WAIT_S = 0.2
"""Seconds after which a request that does not fit asks again."""


@dataclass
class Reserved:
    """An outstanding lease. After the time `until` its worker is taken for dead."""

    role: str
    lease: Lease
    until: float


class Ledger:
    """State of the usage actor: leases, counts by role and kind, cost and budget. A plain class, for tests."""

    def __init__(
        self,
        accounts: Mapping[str, Account],
        budget: Budget,
        files: UsageFiles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = dict(accounts)
        self._budget = budget
        self._has_budget = budget.max_cost is not None or budget.max_tokens is not None
        self._files = files
        self._clock = clock
        self._lock = threading.RLock()  # re-entered by `save`, which runs inside `lease` too
        self._changed = self._used_up = False
        self._before: dict[str, dict[str, Count]] = defaultdict(dict)
        """Counts of earlier attempts, by role and kind."""
        self._counts: dict[str, dict[str, Count]] = defaultdict(dict)
        self._unsettled: dict[str, Count] = {role: Count("unsettled") for role in accounts}
        """Worst cases of requests with unknown usage, of all attempts."""
        self._unsettled_before = dict(self._unsettled)
        self._reserved: dict[str, Reserved] = {}
        self._expired: dict[str, Reserved] = {}
        """Leases past their time. They count as unsettled, but a record may still come."""
        self._earlier: dict[str, Reserved] = {}
        """Open leases of earlier attempts. They count as unsettled until the same lease is requested again."""
        self._resolved: list[str] = []
        """Leases of earlier attempts that this attempt has taken over."""
        self._reports: dict[str, int] = {}
        self._dearest = {role: account.price.dearest() for role, account in accounts.items()}
        self._tiers = {
            role: [
                (above, account.price.dearest(above + 1))
                for above in sorted(tier.above for tier in account.price.tiers)
            ]
            for role, account in accounts.items()
        }
        self._saving = Saving(clock, gives_up=self._has_budget)
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
        if files is not None:
            mine, others = files.load()
            for state in others:
                self._add_earlier(state)
            if mine is not None:
                self._restore(mine)

    def lease(self, role: str, leases: Sequence[Lease]) -> tuple[int, float]:
        """Grants leases in order. Returns (number granted from the front, seconds until the rest may ask again).

        The seconds are infinite once the budget is used up. A lease that is requested twice is granted twice, so that
        Ray may repeat the call.
        """
        with self._lock:
            if self._saving.problem is None:
                granted, pause = self._grant(role, leases)
                if not granted or not self._has_budget or self._kept():
                    return granted, pause
                if self._saving.problem is None:
                    # The leases stay reserved. The worker asks for them again, and gets them once they are on storage.
                    return 0, saving.AGAIN_S
            for lease in leases:
                if lease.id not in self._resolved:  # an earlier attempt has already sent such a request
                    self._reserved.pop(lease.id, None)
            return 0, math.inf

    def _kept(self) -> bool:
        return self._saving.kept(self.save)

    def problem(self) -> str | None:
        """Returns why requests are stopped although some budget is left; None while they are not."""
        return self._saving.problem

    def _grant(self, role: str, leases: Sequence[Lease]) -> tuple[int, float]:
        account, now = self._accounts[role], self._clock()
        self._expire(now)
        tokens, cost = self._committed() if self._has_budget else (0, 0.0)
        for granted, lease in enumerate(leases):
            if lease.id in self._reserved:
                continue
            if self._used_up:
                return granted, math.inf
            tokens += lease.input_tokens + lease.output_tokens
            cost += self._lease_cost(role, lease)
            earlier = self._earlier.get(lease.id)
            if earlier is not None:
                # Already committed as unsettled: one request must not count twice.
                tokens -= earlier.lease.input_tokens + earlier.lease.output_tokens
                cost -= self._lease_cost(earlier.role, earlier.lease)
            if not self._fits(tokens, cost):
                if self._reserved:
                    return granted, WAIT_S
                self._used_up = True
                return granted, math.inf
            amounts = [
                (self._requests.get(account.group), 1.0),
                (self._tokens.get(account.group), float(lease.likely_tokens)),
            ]
            wait = max((bucket.wait(amount, now) for bucket, amount in amounts if bucket is not None), default=0.0)
            if wait > 0.0:
                return granted, wait
            for bucket, amount in amounts:
                if bucket is not None:
                    bucket.take(amount)
            if earlier is not None:
                self._unsettle(self._earlier.pop(lease.id), -1)
                self._resolved.append(lease.id)
            self._reserved[lease.id] = Reserved(role, lease, now + account.patience_s)
            self._changed = True
        return len(leases), 0.0

    def record(self, report: Report) -> None:
        """Adds the counts of a report; a report that was received before changes nothing."""
        with self._lock:
            if report.number <= self._reports.get(report.worker, 0):
                return
            self._reports[report.worker] = report.number
            self._changed = True
            for role, count in report.counts:
                kinds = self._counts[role]
                kinds[count.kind] = kinds.get(count.kind, Count(count.kind)) + count
            for lease_id, used in report.settled:
                self._settle(lease_id, used)
            for role, lease in report.unknown:
                self._unsettle(Reserved(role, lease, 0.0))

    def _settle(self, lease_id: str, used: int | None) -> None:
        reserved = self._reserved.pop(lease_id, None)
        if reserved is None:
            reserved = self._expired.pop(lease_id, None)
            if reserved is None:
                return  # already counted as unsettled before the actor was restarted: too much rather than too little
            self._unsettle(reserved, -1)
        if used is None:
            self._unsettle(reserved)
        bucket = self._tokens.get(self._accounts[reserved.role].group)
        if bucket is not None and used is not None:
            bucket.take(used - reserved.lease.likely_tokens)

    def _unsettle(self, reserved: Reserved, sign: int = 1) -> None:
        worst = self._worst_of(reserved.role, reserved.lease)
        self._unsettled[reserved.role] += worst if sign > 0 else -worst

    def _worst_of(self, role: str, lease: Lease) -> Count:
        """Returns the worst case of a request, at the dearest tier of the price that it can reach."""
        base, tier = self._dearest[role], self._dearest_of(role, lease)
        return lease.count() if tier is base else lease.count().above(base, tier)

    def _dearest_of(self, role: str, lease: Lease) -> Price:
        reached = self._dearest[role]
        for above, price in self._tiers[role]:
            if lease.input_tokens > above:
                reached = price
        return reached

    def _expire(self, now: float) -> None:
        for lease_id, reserved in list(self._reserved.items()):
            if now >= reserved.until:
                self._expired[lease_id] = self._reserved.pop(lease_id)
                self._unsettle(reserved)
                self._changed = True

    def _committed(self) -> tuple[int, float]:
        """Returns (tokens, US dollars) of the run if every request in flight uses its worst case."""
        tokens, cost = 0, 0.0
        for role in self._accounts:
            spent, unknown = self._spent(role), self._unsettled[role]
            tokens += spent.tokens + unknown.tokens
            cost += spent.cost(self._accounts[role].price) + self._worst_cost(role, unknown)
        for reserved in self._reserved.values():
            tokens += reserved.lease.input_tokens + reserved.lease.output_tokens
            cost += self._lease_cost(reserved.role, reserved.lease)
        return tokens, cost

    def _fits(self, tokens: int, cost: float) -> bool:
        max_cost, max_tokens = self._budget.max_cost, self._budget.max_tokens
        return (max_tokens is None or tokens <= max_tokens) and (max_cost is None or cost <= max_cost)

    def _spent(self, role: str) -> Count:
        return sum([*self._before[role].values(), *self._counts[role].values()], Count("all"))

    def _cost(self, role: str) -> float:
        return self._spent(role).cost(self._accounts[role].price)

    def _unsettled_cost(self, role: str) -> float:
        return self._worst_cost(role, self._unsettled[role])

    def _worst_cost(self, role: str, worst: Count) -> float:
        return worst.cost(self._dearest[role])

    def _lease_cost(self, role: str, lease: Lease) -> float:
        price = self._dearest_of(role, lease)
        return (lease.input_tokens * price.input + lease.output_tokens * price.output) / 1e6 + price.request

    def drained(self) -> bool:
        """Whether the budget is used up and every granted request has ended."""
        return self._used_up and not self._reserved

    def snapshot(self) -> dict[str, dict[str, float]]:
        """Returns the usage of all attempts by role: the numbers of `Count`, `cost` in US dollars, and the unsettled.

        `unsettled_tokens` and `unsettled_cost` are the worst case of requests with unknown usage. The other numbers do
        not include them.
        """
        with self._lock:
            return {
                role: {
                    **self._spent(role).numbers(),
                    "cost": self._cost(role),
                    "unsettled_tokens": self._unsettled[role].tokens,
                    "unsettled_cost": self._unsettled_cost(role),
                }
                for role in self._accounts
            }

    def by_kind(self) -> dict[str, dict[str, dict[str, float]]]:
        """Returns usage by role and kind of request (label, expand, respond, …): numbers of `Count`, tokens, cost."""
        with self._lock:
            kinds = {role: [*self._before[role].values(), *self._counts[role].values()] for role in self._accounts}
            return {
                role: {
                    kind: self._priced(role, sum((count for count in counts if count.kind == kind), Count(kind)))
                    for kind in dict.fromkeys(count.kind for count in counts)
                }
                for role, counts in kinds.items()
            }

    def _priced(self, role: str, count: Count) -> dict[str, float]:
        return {**count.numbers(), "tokens": count.tokens, "cost": count.cost(self._accounts[role].price)}

    # On storage

    def save(self) -> None:
        """Writes the state of this attempt if it has changed. Raises OSError if storage fails."""
        with self._lock:
            if self._files is None or not self._changed:
                return
            self._files.save(
                {
                    "counts": listed(self._counts),
                    # Of this attempt alone: the next one adds up the files of all attempts.
                    "unsettled": {
                        role: (count + -self._unsettled_before[role]).numbers()
                        for role, count in self._unsettled.items()
                    },
                    "reserved": [[one.role, asdict(one.lease)] for one in self._reserved.values()],
                    "resolved": self._resolved,
                    "reports": self._reports,
                    "used_up": self._used_up,
                }
            )
            self._changed = False

    def _add_earlier(self, state: dict[str, Any]) -> None:
        """Adds the state of an earlier attempt. Called in the order of their numbers: a later one resolves leases."""
        for lease_id in state["resolved"]:
            self._earlier.pop(lease_id, None)
        for role, count in counts_in(state):
            kinds = self._before[role]
            kinds[count.kind] = kinds.get(count.kind, Count(count.kind)) + count
        for role, count in unsettled_in(state):
            if role in self._unsettled:
                self._unsettled[role] += count
        for role, lease in state["reserved"]:
            if role in self._unsettled:
                self._earlier[lease["id"]] = Reserved(role, Lease(**lease), 0.0)
                self._unsettle(self._earlier[lease["id"]])
        self._unsettled_before = dict(self._unsettled)

    def _restore(self, state: dict[str, Any]) -> None:
        for role, count in counts_in(state):
            self._counts[role][count.kind] = count
        for role, count in unsettled_in(state):
            self._unsettled[role] += count
        for role, lease in state["reserved"]:
            # From now on, since monotonic clocks of two processes cannot be compared.
            until = self._clock() + self._accounts[role].patience_s
            self._reserved[lease["id"]] = Reserved(role, Lease(**lease), until)
        self._resolved = state["resolved"]
        for lease_id in self._resolved:
            self._earlier.pop(lease_id, None)
        self._reports = state["reports"]
        self._used_up = state["used_up"]
