"""Interface of a family of tasks: writes instructions of five levels, reads and answers them, grades answers."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Problem:
    """The problem of an instruction, read from its text."""

    level: int
    """1 (easy) to 5, a function of the form of the problem."""


def joined(steps: Sequence[str]) -> str:
    """The text of steps in the style of the families, the final answer last: `3 + 4 = 7 , 7 - 2 = 5 . answer : 5`."""
    *before, last = steps
    return f"{' , '.join(before)} . {last}" if before else last


P = TypeVar("P", bound=Problem)


class Family(ABC, Generic[P]):
    """One kind of verifiable task. From level 2 on it has at least 10^5 different instructions (see the tests)."""

    name: ClassVar[str]
    label: ClassVar[str]
    """Task type of docs/method.md, step 4."""

    @abstractmethod
    def generate(self, level: int, rng: random.Random) -> str:
        """Writes a new instruction."""

    @abstractmethod
    def parse(self, instruction: str) -> P | None:
        """The problem of a canonical instruction; None if it is of another family."""

    @abstractmethod
    def plain(self, problem: P) -> str:
        """The right answer and nothing else."""

    @abstractmethod
    def styled(self, problem: P) -> str:
        """The right answer in the style of the family's task type."""

    def steps(self, problem: P) -> list[str]:
        """The steps of the right answer, the final answer last; one step for a family whose steps are not read."""
        return [self.styled(problem)]

    def next_steps(self, problem: P, kept: Sequence[str]) -> list[str]:
        """The steps that have to follow the right steps `kept` of a student."""
        return self.steps(problem)[len(kept) :] or self.steps(problem)[-1:]

    def is_right(self, problem: P, step: str, kept: Sequence[str]) -> bool:
        """Whether a canonical step is right after the right steps `kept`: it is the next one, or a right final answer
        of the same form."""
        following = self.next_steps(problem, kept)
        return step in (following[0], following[-1])

    @abstractmethod
    def grade(self, problem: P, answer: str) -> float:
        """1.0 for a right canonical answer in either style, less for a partly right one, 0 for any other."""
