"""What a table's engines do at the moment, between their workers and the progress line.

board = ray.remote(EngineBoard).options(num_cpus=0).remote()    # the workers put, the driver shows
Teller(board, "worker-1").starting(); …; .ready(); .asked(); .answered(tokens=42)

Its own file without other imports: an actor's process would import vLLM with them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

TELL_EVERY_S = 1.0


@dataclass
class Engine:
    """What one worker said of its engine last."""

    ready: bool = False
    in_hand: int = 0
    """Prompts that it was given and has not answered."""
    answers: int = 0
    tokens: int = 0
    """Of the finished answers."""


class EngineBoard:
    """Holds the last word of each engine of a table."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}

    def put(self, worker: str, engine: Engine) -> None:
        """Replace what is known of a worker's engine."""
        self.engines[worker] = engine

    def facts(self) -> dict[str, str]:
        """What a progress line shows: engines that start, then answers and tokens as they come."""
        engines = list(self.engines.values())
        if not engines:
            return {"engine": "waits for a place"}
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
    """Tells a board of one engine, at most every TELL_EVERY_S while answers come; with no board it tells nobody."""

    def __init__(self, board: Any | None, worker: str) -> None:
        self._board, self._worker, self._engine = board, worker, Engine()
        self._told = 0.0

    def starting(self) -> None:
        """The engine loads its model."""
        self._tell()

    def ready(self) -> None:
        """The engine takes prompts."""
        self._engine.ready = True
        self._tell()

    def asked(self) -> None:
        """The engine was given a prompt."""
        self._engine.in_hand += 1
        self._tell(at_once=False)

    def answered(self, tokens: int | None) -> None:
        """The engine has ended a prompt with an answer of so many tokens, or without one."""
        self._engine.in_hand -= 1
        if tokens is not None:
            self._engine.answers += 1
            self._engine.tokens += tokens
        # The last answers are told at once, as no later one would carry them.
        self._tell(at_once=not self._engine.in_hand)

    def _tell(self, at_once: bool = True) -> None:
        now = time.monotonic()
        if self._board is not None and (at_once or now - self._told >= TELL_EVERY_S):
            self._told = now
            self._board.put.remote(self._worker, self._engine)
