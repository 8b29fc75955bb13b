"""Simulated faults of an endpoint: errors at a given rate, and a limit on requests per minute.

faults = Faults(error_rate=0.3, seed=7)
faults.draw(request)        # the fault of this attempt, or None
Window(3000).admit(now)     # 0.0, or the seconds until a request is admitted again
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque

from tapir_ray.errors import InputError
from tapir_ray.simulator.requests import JUDGINGS, Request

RATE_LIMITED, RATE_LIMITED_WAIT, OVER_LIMIT = "429", "429_retry_after", "over_limit"
ERROR_500, ERROR_503, DROPPED, HANG = "500", "503", "dropped", "hang"
TRUNCATED, EMPTY, REFUSAL, UNPARSEABLE = "truncated_json", "empty", "refusal", "unparseable_scores"
FAULTS = (RATE_LIMITED, RATE_LIMITED_WAIT, ERROR_500, ERROR_503, DROPPED, HANG, TRUNCATED, EMPTY, REFUSAL, UNPARSEABLE)
"""Faults, drawn with equal probability; `unparseable_scores` only for requests to judge."""

STATUS = {RATE_LIMITED: 429, RATE_LIMITED_WAIT: 429, OVER_LIMIT: 429, ERROR_500: 500, ERROR_503: 503}
NO_SCORES = "Both have their merits; I would rather not put a number on them."
NO_HELP = "I cannot help with that."
WINDOW_S = 60.0


class Faults:
    """Draws a fault for each attempt: a function of the request, the number of its earlier attempts, and the seed."""

    def __init__(self, error_rate: float, seed: int) -> None:
        """Raises InputError for an error rate outside 0 to 1."""
        if not 0.0 <= error_rate <= 1.0:
            raise InputError(f"simulator error rate {error_rate:g} must be between 0 and 1")
        self._rate = error_rate
        self._seed = seed
        self._asked: Counter[bytes] = Counter()

    def draw(self, request: Request) -> str | None:
        """The fault of this attempt, or None; a further attempt of the same request gets its own draw."""
        if not self._rate:
            return None
        key = hashlib.blake2b(request.identity.encode(), digest_size=12).digest()
        rng = random.Random(f"{self._seed} fault {key.hex()} {self._asked[key]}")
        self._asked[key] += 1
        if rng.random() >= self._rate:
            return None
        judging = request.kind in JUDGINGS
        return rng.choice(FAULTS if judging else FAULTS[:-1])


class Window:
    """Sliding window: admits at most `limit` requests in any 60 seconds. Refused requests do not count."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted: deque[float] = deque()

    def admit(self, now: float) -> float:
        """0.0 if the request is admitted, else the seconds until one would be."""
        while self._admitted and self._admitted[0] <= now - WINDOW_S:
            self._admitted.popleft()
        if len(self._admitted) < self._limit:
            self._admitted.append(now)
            return 0.0
        return self._admitted[0] + WINDOW_S - now
