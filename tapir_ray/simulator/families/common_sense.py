"""Common-Sense: the answer lists those of the given things that one can eat, wear, feed or drive."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tapir_ray.simulator import text
from tapir_ray.simulator.families.base import Family, Problem
from tapir_ray.simulator.families.vocabulary import NAME, NAMES

KINDS = {
    "eat": ("food", ("apple", "egg", "bread", "cake")),
    "wear": ("clothes", ("hat", "coat", "shirt", "shoe")),
    "feed": ("animals", ("dog", "cat", "cow", "hen")),
    "drive": ("vehicles", ("car", "bus", "truck", "van")),
}
KIND = {item: kind for kind, items in KINDS.values() for item in items}
ITEM = text.one_of(tuple(KIND))

WORDING = text.Wording(
    [
        "what can {name} {verb} : {items} ?",
        "{name} sees {items} . what can you {verb} ?",
        "{name} sees {items} . what can {name} {verb} ?",
        "list what {name} can {verb} : {items} .",
        "list what you can {verb} from {items} .",
    ],
    name=NAME,
    verb=text.one_of(tuple(KINDS)),
    items=rf"{ITEM}(?: , {ITEM})*",
)


@dataclass(frozen=True)
class Choice(Problem):
    items: tuple[str, ...]
    kind: str

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(item for item in self.items if KIND[item] == self.kind)


class CommonSense(Family[Choice]):
    """Level n shows n + 1 things, from level 2 on n + 2; up to half of them fit."""

    name = "common_sense"
    label = "Common-Sense"

    def generate(self, level: int, rng: random.Random) -> str:
        count = level + (1 if level == 1 else 2)
        verb = rng.choice(tuple(KINDS))
        kind, fitting = KINDS[verb]
        right = rng.sample(fitting, rng.randint(1, max(1, count // 2)))
        others = [item for item in KIND if KIND[item] != kind]
        items = [*right, *rng.sample(others, count - len(right))]
        rng.shuffle(items)
        return WORDING.write(rng, name=rng.choice(NAMES), verb=verb, items=" , ".join(items))

    def parse(self, instruction: str) -> Choice | None:
        values = WORDING.read(instruction)
        if values is None:
            return None
        items = tuple(values["items"].split(" , "))
        choice = Choice(min(max(len(items) - 2, 1), 5), items, KINDS[values["verb"]][0])
        return choice if choice.chosen else None  # nothing fits, which `generate` never writes

    def plain(self, problem: Choice) -> str:
        return " , ".join(problem.chosen)

    def styled(self, problem: Choice) -> str:
        return f"{self.plain(problem)} ( {problem.kind} )"

    def grade(self, problem: Choice, answer: str) -> float:
        """1 for the right things in any order, else NEAR_MISS · (right − wrong ones) / number of right things."""
        given = [word for word in answer.partition("(")[0].strip(" .").split() if word != ","]
        if sorted(given) == sorted(problem.chosen):
            return 1.0
        right = len(set(given) & set(problem.chosen))
        wrong = len(given) - right
        return text.NEAR_MISS * max(0, right - wrong) / len(problem.chosen)
