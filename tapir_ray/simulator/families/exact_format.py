"""Complex Format: the answer is a list with a given separator, from level 2 on in brackets, reversed or numbered."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tapir_ray.simulator import text
from tapir_ray.simulator.families.base import Family, Problem
from tapir_ray.simulator.families.vocabulary import NAME, NAMES, PLURAL, PLURALS

SEPARATORS = {"semicolon": ";", "dash": "-", "slash": "/", "bar": "|", "star": "*"}
FRAMES = {"": ("", ""), " in round brackets": ("( ", " )"), " in square brackets": ("[ ", " ]")}
REVERSED, NUMBERED = " in reverse order", " with numbers"

WORDING = text.Wording(
    [
        "write {items} with a {separator} between them{frame}{order}{numbers} .",
        "{name} : write {items} with a {separator}{frame}{order}{numbers} .",
        "{name} wants {items} as a list{frame}{order}{numbers} , use a {separator} .",
        "list {items}{frame}{order}{numbers} , use a {separator} .",
        "list {items} for {name}{frame}{order}{numbers} with a {separator} .",
    ],
    name=NAME,
    items=rf"{PLURAL}(?: , {PLURAL})*",
    separator=text.one_of(tuple(SEPARATORS)),
    frame=text.one_of(tuple(FRAMES)[1:]) + "?",
    order=f"(?:{REVERSED})?",
    numbers=f"(?:{NUMBERED})?",
)


@dataclass(frozen=True)
class Format(Problem):
    text: str


class ExactFormat(Family[Format]):
    """Level n lists n + 1 things; brackets from 2 on, reverse order from 3 on, numbers from 4 on."""

    name = "exact_format"
    label = "Complex Format"

    def generate(self, level: int, rng: random.Random) -> str:
        return WORDING.write(
            rng,
            name=rng.choice(NAMES),
            items=" , ".join(rng.sample(PLURALS, level + 1)),
            separator=rng.choice(tuple(SEPARATORS)),
            frame=rng.choice(tuple(FRAMES)) if level >= 2 else "",
            order=REVERSED if level == 5 or (level >= 3 and rng.random() < 0.5) else "",
            numbers=NUMBERED if level >= 4 else "",
        )

    def parse(self, instruction: str) -> Format | None:
        values = WORDING.read(instruction)
        if values is None:
            return None
        items = values["items"].split(" , ")
        level = min(max(len(items) - 1, 1), 5)
        if values["order"]:
            items.reverse()
        if values["numbers"]:
            items = [f"{number} = {item}" for number, item in enumerate(items, 1)]
        before, after = FRAMES[values["frame"]]
        return Format(level, before + f" {SEPARATORS[values['separator']]} ".join(items) + after)

    def plain(self, problem: Format) -> str:
        return problem.text

    def styled(self, problem: Format) -> str:
        """The plain answer: the style of this task type is the exact format with nothing around it."""
        return problem.text

    def grade(self, problem: Format, answer: str) -> float:
        return text.near(answer.split(), problem.text.split())
