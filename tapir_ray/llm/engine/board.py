"""State of the engines of a table, sent by their workers and shown in the progress line of the driver.

board = ray.remote(EngineBoard).options(num_cpus=0).remote()        # an actor
teller = Teller(board, "worker-1")                                  # in each worker
teller.starting(); teller.ready(); teller.asked(); teller.answered(tokens=42)
"""
# A module without other imports: the process of the actor would import vLLM with them.

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

TELL_EVERY_S = 1.0


@dataclass
class Engine:
    """Last state of an engine, as its worker has reported it."""

    ready: bool = False
    in_hand: int = 0
    """Prompts in the engine without an answer yet."""
    answers: int = 0
    tokens: int = 0
    """Tokens of the finished answers."""


class EngineBoard:
    """Last state of each engine of a table."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.workers: list[str] = []

    def put(self, worker: str, engine: Engine) -> None:
        """Replaces the state of a worker's engine."""
        self.engines[worker] = engine

    def number_of(self, worker: str) -> int:
        """Returns the number of a worker, from 0; a restarted worker keeps its number."""
        if worker not in self.workers:
            self.workers.append(worker)
        return self.workers.index(worker)

    def facts(self) -> dict[str, str]:
        """Returns names and values for the progress line: starting engines, then answers and their tokens."""
        engines = list(self.engines.values())
        if not engines:
            return {"engine": "waits for resources"}
        found, ready = {}, sum(engine.ready for engine in engines)
        if ready < len(engines):
            found["engine"] = "starts" if len(engines) == 1 else f"{ready} of {len(engines)} started"
        if ready:
            found["answers"] = f"{sum(engine.answers for engine in engines):,}"
            found["answer tokens"] = f"{sum(engine.tokens for engine in engines):,}"
            in_hand = sum(engine.in_hand for engine in engines)
            found |= {"in hand": f"{in_hand:,}"} if in_hand else {}
        return found


class Teller:
    """Reporter of one engine to a board, at most every TELL_EVERY_S while answers come. A board may be None."""

    def __init__(self, board: Any | None, worker: str) -> None:
        self._board, self._worker, self._engine = board, worker, Engine()
        self._told = 0.0

    def starting(self) -> None:
        """Reports that the engine loads its model."""
        self._tell()

    def ready(self) -> None:
        """Reports that the engine takes prompts."""
        self._engine.ready = True
        self._tell()

    def asked(self) -> None:
        """Counts a prompt that the engine has received."""
        self._engine.in_hand += 1
        self._tell(at_once=False)

    def answered(self, tokens: int | None) -> None:
        """Counts a finished prompt and the tokens of its answer; None for a prompt without one."""
        self._engine.in_hand -= 1
        if tokens is not None:
            self._engine.answers += 1
            self._engine.tokens += tokens
        # Reported at once after the last prompt, since no later answer would bring the counts up to date.
        self._tell(at_once=not self._engine.in_hand)

    def _tell(self, at_once: bool = True) -> None:
        now = time.monotonic()
        if self._board is not None and (at_once or now - self._told >= TELL_EVERY_S):
            self._told = now
            self._board.put.remote(self._worker, self._engine)
