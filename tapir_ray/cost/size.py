"""Number and tokens of requests."""

from __future__ import annotations

from dataclasses import dataclass

BYTES_PER_TOKEN = 4
"""Guess for texts whose tokens are not counted."""


@dataclass(frozen=True)
class Size:
    """Number of requests, input tokens and output tokens, of one row or several."""

    calls: float = 0.0
    input: float = 0.0
    output: float = 0.0

    def __add__(self, other: Size) -> Size:
        return Size(self.calls + other.calls, self.input + other.input, self.output + other.output)

    def times(self, factor: float) -> Size:
        return Size(self.calls * factor, self.input * factor, self.output * factor)

    @property
    def tokens(self) -> float:
        return self.input + self.output
