"""Rubric of a task: the criteria that a judge scores one by one (`judge.mode: rubric`), and their weights.

criteria:                                   # in tasks.yaml: of a task, or at the top for tasks without their own
  accuracy: {weight: 2, question: "Is all that the answer states true?"}
  clarity: {question: "Is it easy to follow?"}
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError

CRITERIA = "criteria"
"""Key of a taxonomy file, at its top and in a task."""
DIGITS = 6
"""Decimals of a weighted mean. Without rounding, 7 and 7 in the same weights could differ by 1e-16 and be no tie."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Criterion:
    """One criterion: its name in the judge's JSON, its weight above 0, and the question that the judge reads."""

    name: str
    weight: float
    question: str


@dataclass(frozen=True)
class Rubric:
    """Criteria of a task, in the order in which the judge is asked for them."""

    criteria: tuple[Criterion, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the criteria."""
        return tuple(one.name for one in self.criteria)

    def score(self, marks: Mapping[str, float]) -> float:
        """Returns the mean of the marks, weighted by the criteria: 1 to 10.

        Weights 2 and 1 with the marks 9 and 6 give (2 · 9 + 6) / 3 = 8.
        """
        total = sum(one.weight for one in self.criteria)
        return round(sum(one.weight * marks[one.name] for one in self.criteria) / total, DIGITS)

    def text(self) -> str:
        """Returns the lines of the prompt: `- accuracy: Is all that the answer states true?`"""
        return "\n".join(f"- {one.name}: {one.question}" for one in self.criteria)


@dataclass(frozen=True)
class Rubrics:
    """Rubrics of all tasks."""

    default: Rubric
    by_task: Mapping[str, Rubric] = field(default_factory=dict)

    def of(self, task: str | None) -> Rubric:
        """Returns the rubric of a task; the default without a task, and for a task without criteria."""
        return self.by_task.get(task or "", self.default)

    def longest(self) -> Rubric:
        """Returns the rubric with the longest prompt, for an upper bound."""
        return max((self.default, *self.by_task.values()), key=lambda one: len(one.text()))


def parse_rubric(content: Any, where: str) -> Rubric:
    """Returns the rubric in a mapping of a taxonomy file.

    Raises InputError, which begins with `where`, for a name that does not fit a JSON key, a weight that is not above 0,
    a missing question, an unknown key, and for no criteria at all.
    """
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{where}: write `criteria` as names with a `question` and a `weight`, such as "
            "`accuracy: {weight: 2, question: 'Is it true?'}`; leave it out to use the default criteria"
        )
    return Rubric(tuple(_criterion(name, entry, where) for name, entry in content.items()))


def _criterion(name: Any, entry: Any, where: str) -> Criterion:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"{where}: the criterion {str(name)!r} is a key of the judge's JSON: write a name of at most 40 lower-case "
            "letters, digits and `_` that begins with a letter"
        )
    if not isinstance(entry, dict):
        raise InputError(f"{where}: criterion {name} is not a mapping with `question` and `weight`")
    if unknown := sorted(set(map(str, entry)) - {"weight", "question"}):
        raise InputError(f"{where}: criterion {name} has the unknown key {unknown[0]}")
    weight, question = entry.get("weight", 1), entry.get("question")
    # `weight: true` is a bool, which is an int in Python.
    number = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight)
    if not number or weight <= 0:
        raise InputError(f"{where}: criterion {name} needs a `weight` above 0 (it is {weight!r})")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where}: criterion {name} needs a `question` for the judge, as text")
    return Criterion(name, float(weight), one_line(question))
