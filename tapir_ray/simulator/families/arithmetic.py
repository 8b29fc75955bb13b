"""Math: a number of things grows and shrinks in steps; the answer is the final number."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import accumulate

from tapir_ray.simulator import text
from tapir_ray.simulator.families.base import Family, Problem, joined
from tapir_ray.simulator.families.vocabulary import NAME, NAMES, NUMBER, PLURAL, PLURALS

GAINS = ("finds", "gets", "buys")
LOSSES = ("loses", "sells", "gives")
STEP = re.compile(rf"({text.one_of(GAINS + LOSSES)}) ({NUMBER})")
LARGEST_STEP, LARGEST_TOTAL = 9, 20
"""Numbers stay small: a higher level has more steps, not larger sums."""

WORDING = text.Wording(
    [
        "{name} has {start} {things} , {steps} . how many {things} now ?",
        "{name} has {start} {things} and then {steps} . how many now ?",
        "{name} has {start} {things} and then {steps} . count the {things} .",
        "how many {things} has {name} now ? first {start} , then {steps} .",
        "count the {things} of {name} : first {start} , {steps} .",
    ],
    name=NAME,
    things=PLURAL,
    start=NUMBER,
    steps=rf"{STEP.pattern}(?: , {STEP.pattern})*",
)


@dataclass(frozen=True)
class Sum(Problem):
    start: int
    changes: tuple[int, ...]

    @property
    def result(self) -> int:
        return self.start + sum(self.changes)


class Arithmetic(Family[Sum]):
    """Level n has n steps."""

    name = "arithmetic"
    label = "Math"

    def generate(self, level: int, rng: random.Random) -> str:
        total = start = rng.randint(2, LARGEST_STEP)
        steps = []
        for _ in range(level):
            loss = total > 1 and (total == LARGEST_TOTAL or rng.random() < 0.5)
            amount = rng.randint(1, min(LARGEST_STEP, total - 1 if loss else LARGEST_TOTAL - total))
            total += -amount if loss else amount
            steps.append(f"{rng.choice(LOSSES if loss else GAINS)} {amount}")
        return WORDING.write(
            rng, name=rng.choice(NAMES), things=rng.choice(PLURALS), start=start, steps=" , ".join(steps)
        )

    def parse(self, instruction: str) -> Sum | None:
        values = WORDING.read(instruction)
        if values is None:
            return None
        start = int(values["start"])
        changes = tuple(int(n) if verb in GAINS else -int(n) for verb, n in STEP.findall(values["steps"]))
        if min(accumulate(changes, initial=start)) < 0:
            return None  # gives away more than there is, which `generate` never writes
        return Sum(min(len(changes), 5), start, changes)

    def plain(self, problem: Sum) -> str:
        return str(problem.result)

    def styled(self, problem: Sum) -> str:
        return joined(self.steps(problem))

    def steps(self, problem: Sum) -> list[str]:
        total, lines = problem.start, []
        for change in problem.changes:
            lines.append(f"{total} {'+' if change > 0 else '-'} {abs(change)} = {total + change}")
            total += change
        return [*lines, f"answer : {total}"]

    def grade(self, problem: Sum, answer: str) -> float:
        return text.number(text.final(answer), problem.result)
