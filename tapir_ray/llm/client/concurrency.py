"""Limit of the requests in flight to an endpoint: a fixed number, or one that adapts to the endpoint.

    slots = InFlight(64, adaptive=True)
    async with slots: ...
    slots.succeeded()                  # or slots.overloaded(asked_at) after a 429, a 503 or a timeout

The adaptive limit follows additive increase, multiplicative decrease (Chiu and Jain 1989,
doi 10.1016/0169-7552(89)90019-6), with TCP's slow start: it doubles in each round of replies until the first overload.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

START = 8
"""First value of an adaptive limit."""


class InFlight:
    """Semaphore of at most `most` requests, first come, first served. Belongs to one event loop."""

    def __init__(self, most: int, adaptive: bool = False) -> None:
        self._most = most
        self._adaptive = adaptive
        self._limit = float(min(START, most) if adaptive else most)
        self._growing_fast = True
        self._cut_at = 0.0
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    async def __aenter__(self) -> None:
        if self._busy < self.limit and not self._waiting:
            self._busy += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # `_wake` gave this request its slot just before the cancellation: pass it on.
                self._busy -= 1
                self._wake()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._busy -= 1
        self._wake()

    def succeeded(self) -> None:
        """Raises the limit after a reply: by 1 in slow start, later by 1 in each round of replies."""
        # Only if the limit is in use: replies of a few requests do not show that the endpoint bears more.
        if self._adaptive and self._busy >= self.limit - 1:
            self._limit = min(self._most, self._limit + (1.0 if self._growing_fast else 1.0 / self._limit))
            self._wake()

    def overloaded(self, asked_at: float) -> None:
        """Halves the limit, once for all requests that were in flight; `asked_at` is in time of `time.monotonic`."""
        if self._adaptive and asked_at >= self._cut_at:
            self._limit = max(1.0, self._limit / 2)
            self._growing_fast = False
            self._cut_at = time.monotonic()

    def _wake(self) -> None:
        while self._waiting and self._busy < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._busy += 1
                turn.set_result(None)
