"""Code Debug: a line of Python has wrong tokens (a misspelt keyword, a wrong bracket); the answer corrects them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tapir_ray.simulator import text
from tapir_ray.simulator.families.base import Family, Problem
from tapir_ray.simulator.families.vocabulary import NAME, NAMES, NUMBER, PLURAL, PLURALS

FUNCTIONS = ("sum", "max", "min", "len")
MISSPELT = {"print": "pirnt", "return": "retrun", "if": "fi", "for": "fro", "in": "ni", "sum": "smu", "len": "lne"}
SPELT = {wrong: right for right, wrong in MISSPELT.items()}
BRACKETS = {"(": ")", "[": "]"}
OPERATORS, SIDES = ("+", "-", "*"), ("<", ">")

SLOTS = {
    "function": text.one_of(FUNCTIONS),
    "operator": text.one_of(OPERATORS),
    "side": text.one_of(SIDES),
    **{slot: PLURAL for slot in ("a", "b", "c")},
    **{slot: NUMBER for slot in ("k", "m")},
}
LINES = {
    1: ("print ( {a} )", "return {a} [ {k} ]", "{a} = {function} ( {b} )"),
    2: (
        "{a} = {function} ( {b} ) {operator} {k}",
        "if {a} {side} {k} : print ( {b} )",
        "return {function} ( {a} ) {operator} {b} [ {k} ]",
    ),
    3: (
        "if {function} ( {a} ) {side} {k} : print ( {b} {operator} {m} )",
        "{a} = {function} ( {b} ) {operator} {k} if {c} {side} {m}",
    ),
    4: (
        "if {function} ( {a} ) {side} {k} : {b} = sum ( {c} ) {operator} {m}",
        "for x in {a} : {b} = {function} ( {c} ) {operator} x [ {m} ]",
    ),
    5: (
        "for x in {a} : print ( {function} ( {b} ) {operator} x [ {k} ] , {c} [ {m} ] )",
        "for x in {a} : if x {side} {k} : return {function} ( {b} ) {operator} {c} [ {m} ]",
    ),
}
FORMS = {level: text.Wording(lines, **SLOTS) for level, lines in LINES.items()}
BUGS = {1: 1, 2: 1, 3: 1, 4: 2, 5: 3}

WORDING = text.Wording(
    [
        "fix this line of python : {code}",
        "fix the python of {name} : {code}",
        "{name} has to fix this python : {code}",
        "correct this line : {code}",
        "correct the python of {name} : {code}",
    ],
    name=NAME,
    code=".+",
)


@dataclass(frozen=True)
class Bug(Problem):
    wrong: tuple[str, ...]
    right: tuple[str, ...]


class CodeRepair(Family[Bug]):
    """Lines get longer with the level; one bug up to level 3, two in level 4, three in level 5."""

    name = "code_repair"
    label = "Code Debug"

    def generate(self, level: int, rng: random.Random) -> str:
        a, b, c = rng.sample(PLURALS, 3)
        line = FORMS[level].write(
            rng, a=a, b=b, c=c, k=rng.randint(1, 99), m=rng.randint(1, 99),
            function=rng.choice(FUNCTIONS), operator=rng.choice(OPERATORS), side=rng.choice(SIDES),
        )  # fmt: skip
        code = line.split()
        # Only tokens that `_repair` can restore.
        breakable = [i for i, token in enumerate(code) if token in MISSPELT or token in ")]"]
        for i in rng.sample(breakable, min(BUGS[level], len(breakable))):
            code[i] = MISSPELT.get(code[i]) or ("]" if code[i] == ")" else ")")
        return WORDING.write(rng, name=rng.choice(NAMES), code=" ".join(code))

    def parse(self, instruction: str) -> Bug | None:
        values = WORDING.read(instruction)
        if values is None:
            return None
        wrong = values["code"].split()
        right = _repair(wrong)
        line = " ".join(right)
        for level, form in FORMS.items():
            if form.read(line) is not None:
                return Bug(level, tuple(wrong), tuple(right))
        return None

    def plain(self, problem: Bug) -> str:
        return " ".join(problem.right)

    def styled(self, problem: Bug) -> str:
        changes = [f"{b} not {a}" for a, b in zip(problem.wrong, problem.right, strict=True) if a != b]
        return f"{self.plain(problem)} # {' , '.join(changes)}"

    def grade(self, problem: Bug, answer: str) -> float:
        return text.repaired(answer.partition("#")[0].split(), problem.right, problem.wrong)


def _repair(code: list[str]) -> list[str]:
    """Corrects the spelling of keywords, and makes each closing bracket match the last open one."""
    opened: list[str] = []
    right = []
    for token in code:
        if token in BRACKETS:
            opened.append(token)
        elif re.fullmatch(r"[)\]]", token) and opened:
            token = BRACKETS[opened.pop()]
        right.append(SPELT.get(token, token))
    return right
