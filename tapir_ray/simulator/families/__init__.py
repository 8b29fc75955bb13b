"""The families of the `tasks` scenario, one file each."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tapir_ray.simulator.families.arithmetic import Arithmetic
from tapir_ray.simulator.families.base import LEVELS, Family, Problem
from tapir_ray.simulator.families.code_repair import CodeRepair
from tapir_ray.simulator.families.code_writing import CodeWriting
from tapir_ray.simulator.families.common_sense import CommonSense
from tapir_ray.simulator.families.counterfactual import Counterfactual
from tapir_ray.simulator.families.exact_format import ExactFormat
from tapir_ray.simulator.families.grammar import Grammar
from tapir_ray.simulator.families.ordering import Ordering
from tapir_ray.simulator.families.paraphrase import Paraphrase
from tapir_ray.simulator.families.writing import Writing
from tapir_ray.simulator.text import canonical

FAMILIES: tuple[Family[Any], ...] = (
    Arithmetic(),
    Ordering(),
    CodeWriting(),
    CodeRepair(),
    ExactFormat(),
    Grammar(),
    Paraphrase(),
    Counterfactual(),
    CommonSense(),
    Writing(),
)


# Cached, because a judge grades both answers to an instruction, in both orders.
@lru_cache(maxsize=4096)
def understand(text: str) -> tuple[Family[Any], Problem] | None:
    """The family that wrote a text, and the problem in it; None for any other text."""
    instruction = canonical(text)
    for family in FAMILIES:
        problem = family.parse(instruction)
        if problem is not None:
            return family, problem
    return None


def grade(text: str, answer: str) -> float:
    """The grade of an answer to an instruction, in [0, 1]; 0 for an instruction of no family."""
    known = understand(text)
    return 0.0 if known is None else known[0].grade(known[1], canonical(answer))


__all__ = ["FAMILIES", "LEVELS", "Family", "Problem", "grade", "understand"]
