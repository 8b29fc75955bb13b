"""Counterfactual: in a made-up world colors turn into other colors; the answer is the final color of a thing."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tapir_ray.simulator import text
from tapir_ray.simulator.families.base import Family, Problem, joined
from tapir_ray.simulator.families.vocabulary import COLOR, COLORS, NAME, NAMES, THING, THINGS

RULE = re.compile(rf"({COLOR}) turns ({COLOR})")

WORDING = text.Wording(
    [
        "suppose {rules} . what color is the {color} {thing} of {name} then ?",
        "if {name} has a {color} {thing} and {rules} , what color is it then ?",
        "{name} has a {color} {thing} . if {rules} , what color is it ?",
        "if {rules} , what color is the {color} {thing} of {name} ?",
        "suppose {rules} . what color is the {thing} of {name} ? it is {color} first .",
    ],
    name=NAME,
    thing=THING,
    color=COLOR,
    rules=rf"{RULE.pattern}(?: , then {RULE.pattern})*",
)


@dataclass(frozen=True)
class World(Problem):
    colors: tuple[str, ...]
    """Colors of the thing, from the first to the last."""


class Counterfactual(Family[World]):
    """Level n has n rules, of which one or more change the thing."""

    name = "counterfactual"
    label = "Counterfactual"

    def generate(self, level: int, rng: random.Random) -> str:
        first = color = rng.choice(COLORS)
        changing = {rng.randrange(level)} | {i for i in range(level) if rng.random() < 0.6}
        rules = []
        for i in range(level):
            old = color if i in changing else rng.choice([c for c in COLORS if c != color])
            new = rng.choice([c for c in COLORS if c != old])
            rules.append(f"{old} turns {new}")
            color = new if i in changing else color
        return WORDING.write(
            rng, name=rng.choice(NAMES), thing=rng.choice(THINGS), color=first, rules=" , then ".join(rules)
        )

    def parse(self, instruction: str) -> World | None:
        values = WORDING.read(instruction)
        if values is None:
            return None
        rules = RULE.findall(values["rules"])
        colors = [values["color"]]
        for old, new in rules:
            if old == colors[-1]:
                colors.append(new)
        return World(min(len(rules), 5), tuple(colors))

    def plain(self, problem: World) -> str:
        return problem.colors[-1]

    def styled(self, problem: World) -> str:
        return joined(self.steps(problem))

    def steps(self, problem: World) -> list[str]:
        first, *others = problem.colors
        return [first, *(f"then {color}" for color in others), f"answer : {problem.colors[-1]}"]

    def grade(self, problem: World, answer: str) -> float:
        """1 for the final color, 0.2 for another color that the thing turns into, else 0."""
        given = text.final(answer)
        if given == problem.colors[-1]:
            return 1.0
        return 0.2 if given in problem.colors[1:] else 0.0
