"""Splits the time of a training worker by clocks around its calls, for benchmarks/train.py."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from tapir_ray.train import batches, loop

COLLECTIVES = ("all_reduce", "reduce", "broadcast", "all_gather_into_tensor", "all_gather", "reduce_scatter_tensor")


class Phases:
    """Clocks around the parts of a step of `engine` in this process; a part's time excludes the parts inside it."""

    def __init__(self, engine: Any) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside: list[float] = []
        self._clock(engine, "forward", "forward")
        self._clock(engine, "backward", "backward")
        self._clock(engine, "step", "optimizer")
        self._clock(loop, "collate", "data")
        self._clock(batches.PackedReader, "__getitem__", "data")
        for collective in COLLECTIVES:
            self._clock(torch.distributed, collective, "communication")

    def shares(self, seconds: float) -> dict[str, float]:
        """Returns the share of `seconds` by part; `other` is the rest. Waiting for another rank is communication."""
        shares = {part: spent / seconds for part, spent in self.seconds.items()}
        return {**shares, "other": 1 - sum(shares.values())}

    def _clock(self, owner: Any, name: str, part: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            began = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                spent = time.perf_counter() - began
                self.seconds[part] += spent - self._inside.pop()
                if self._inside:
                    self._inside[-1] += spent

        setattr(owner, name, timed)
