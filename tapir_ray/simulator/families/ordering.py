"""Reasoning: people are compared in pairs; the answer lists all of them in order."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tapir_ray.simulator import text
from tapir_ray.simulator.families.base import Family, Problem, joined
from tapir_ray.simulator.families.vocabulary import NAME, NAMES

RELATIONS = (
    ("older", "oldest", "younger", "youngest"),
    ("taller", "tallest", "shorter", "shortest"),
    ("faster", "fastest", "slower", "slowest"),
    ("stronger", "strongest", "weaker", "weakest"),
)
MORE, MOST, LESS, LEAST = (tuple(column) for column in zip(*RELATIONS, strict=True))
FACT = re.compile(rf"({NAME}) is ({text.one_of(MORE + LESS)}) than ({NAME})")

WORDING = text.Wording(
    [
        "{facts} . list them from {first} to {last} .",
        "{facts} . what is the order , from {first} to {last} ?",
        "if {facts} , what is the order from {first} to {last} ?",
        "list these from {first} to {last} : {facts} .",
        "order from {first} to {last} : {facts} .",
    ],
    facts=rf"{FACT.pattern}(?: , {FACT.pattern})*",
    first=text.one_of(MOST + LEAST),
    last=text.one_of(MOST + LEAST),
)


@dataclass(frozen=True)
class Order(Problem):
    pairs: tuple[tuple[str, str], ...]
    """(before, after) in the requested direction, in the order of the text."""
    people: tuple[str, ...]


class Ordering(Family[Order]):
    """Level n compares n + 1 people. Up to level 3 the comparisons are in order, from level 4 on shuffled."""

    name = "ordering"
    label = "Reasoning"

    def generate(self, level: int, rng: random.Random) -> str:
        more, most, less, least = rng.choice(RELATIONS)
        people = rng.sample(NAMES, level + 1)
        told = list(pairwise(people))
        if level >= 4:
            rng.shuffle(told)
        facts = []
        for high, low in told:
            upward = rng.random() < 0.5
            facts.append(f"{high} is {more} than {low}" if upward else f"{low} is {less} than {high}")
        first, last = (most, least) if rng.random() < 0.5 else (least, most)
        return WORDING.write(rng, facts=" , ".join(facts), first=first, last=last)

    def parse(self, instruction: str) -> Order | None:
        values = WORDING.read(instruction)
        if values is None:
            return None
        downward = values["first"] in MOST
        pairs = []
        for one, relation, other in FACT.findall(values["facts"]):
            pairs.append((one, other) if (relation in MORE) == downward else (other, one))
        people = _chain(pairs)
        return None if people is None else Order(min(len(pairs), 5), tuple(pairs), tuple(people))

    def plain(self, problem: Order) -> str:
        return " , ".join(problem.people)

    def styled(self, problem: Order) -> str:
        return joined(self.steps(problem))

    def steps(self, problem: Order) -> list[str]:
        return [*(f"{before} > {after}" for before, after in problem.pairs), f"answer : {self.plain(problem)}"]

    def next_steps(self, problem: Order, kept: Sequence[str]) -> list[str]:
        """The comparisons may be told in any order."""
        *pairs, last = self.steps(problem)
        return [*(pair for pair in pairs if pair not in kept), last]

    def is_right(self, problem: Order, step: str, kept: Sequence[str]) -> bool:
        return step in self.next_steps(problem, kept)

    def grade(self, problem: Order, answer: str) -> float:
        given = [word for word in text.final(answer).split() if word != ","]
        return text.near(given, problem.people)


def _chain(pairs: list[tuple[str, str]]) -> list[str] | None:
    """All people from first to last; None if the pairs are no single chain (two starts, a fork, a cycle)."""
    after = dict(pairs)
    starts = set(after) - set(after.values())
    # No person is before or after two others: then the walk from the start meets nobody twice, so it ends.
    if len(starts) != 1 or not len(after) == len(set(after.values())) == len(pairs):
        return None
    people = [starts.pop()]
    while people[-1] in after:
        people.append(after[people[-1]])
    return people if len(people) == len(pairs) + 1 else None
