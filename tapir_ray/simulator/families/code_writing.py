"""Code Generation: words describe a computation over lists; the answer is one Python expression, never executed."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tapir_ray.simulator import text
from tapir_ray.simulator.families.base import Family, Problem
from tapir_ray.simulator.families.vocabulary import NAME, NAMES, NUMBER, PLURAL, PLURALS

FUNCTIONS = {"sum": "sum", "total": "sum", "largest": "max", "biggest": "max", "smallest": "min", "lowest": "min"}
OPERATORS = {"plus": "+", "minus": "-", "times": "*"}
SIDES = {"above": ">", "below": "<"}

TERM = (
    rf"the (?:{text.one_of(tuple(FUNCTIONS))}) of {PLURAL}"
    rf"(?: {text.one_of(tuple(SIDES))} {NUMBER})?(?: each times {NUMBER})?"
)
TERM_PARTS = re.compile(
    rf"the ({text.one_of(tuple(FUNCTIONS))}) of ({PLURAL})"
    rf"(?: ({text.one_of(tuple(SIDES))}) ({NUMBER}))?(?: each times ({NUMBER}))?"
)
WHOLE = re.compile(rf"({TERM})(?: ({text.one_of(tuple(OPERATORS))}) ({NUMBER}|{TERM}))?")

WORDING = text.Wording(
    [
        "write python for {what} .",
        "{name} needs {what} in python .",
        "{name} needs this in python : {what} .",
        "write python for {name} : {what} .",
        "write {what} in python for {name} .",
    ],
    name=NAME,
    what=rf"{TERM}(?: {text.one_of(tuple(OPERATORS))} (?:{NUMBER}|{TERM}))?",
)


@dataclass(frozen=True)
class Expression(Problem):
    what: str
    code: str


class CodeWriting(Family[Expression]):
    """Level 1: one function; 2: and an operator; 3: with a condition; 4: and a factor; 5: two such terms."""

    name = "code_writing"
    label = "Code Generation"

    def generate(self, level: int, rng: random.Random) -> str:
        def term(condition: bool, factor: bool) -> str:
            parts = ["the", rng.choice(tuple(FUNCTIONS)), "of", rng.choice(PLURALS)]
            if condition:
                parts += [rng.choice(tuple(SIDES)), str(rng.randint(2, 99))]
            if factor:
                parts += ["each", "times", str(rng.randint(2, 9))]
            return " ".join(parts)

        what = term(condition=level >= 3, factor=level >= 4)
        if level >= 2:
            two_terms = level == 5 or (level == 2 and rng.random() < 0.5)
            other = term(condition=level == 5, factor=level == 5) if two_terms else str(rng.randint(2, 99))
            what += f" {rng.choice(tuple(OPERATORS))} {other}"
        return WORDING.write(rng, name=rng.choice(NAMES), what=what)

    def parse(self, instruction: str) -> Expression | None:
        values = WORDING.read(instruction)
        match = WHOLE.fullmatch(values["what"]) if values else None
        if match is None:
            return None
        first, operator, other = match.groups()
        code = _code(first)
        if operator:
            code += f" {OPERATORS[operator]} {other if other.isdigit() else _code(other)}"
        if operator is None:
            level = 1
        elif "each" in other:
            level = 5
        else:
            level = 4 if "each" in first else 3 if " if " in code else 2
        return Expression(level, match.group(), code)

    def plain(self, problem: Expression) -> str:
        return problem.code

    def styled(self, problem: Expression) -> str:
        return f"{problem.code} # {problem.what}"

    def grade(self, problem: Expression, answer: str) -> float:
        return text.near(answer.partition("#")[0].split(), text.words(problem.code))


def _code(term: str) -> str:
    match = TERM_PARTS.fullmatch(term)
    if match is None:
        raise ValueError(f"not a term: {term}")
    function, things, side, bound, factor = match.groups()
    items = f"x * {factor} for x in {things}" if factor else f"x for x in {things}"
    if side:
        return f"{FUNCTIONS[function]} ( {items} if x {SIDES[side]} {bound} )"
    return f"{FUNCTIONS[function]} ( {items if factor else things} )"
