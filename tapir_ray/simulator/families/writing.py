"""Writing: the answer is a short note that mentions the given facts."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tapir_ray.simulator import text
from tapir_ray.simulator.families.base import Family, Problem
from tapir_ray.simulator.families.vocabulary import COLORS, NAME, NAMES, THING, THINGS

STATES = (*COLORS, "big", "small", "old", "new")
STATE = text.one_of(STATES)
FACT = re.compile(rf"({THING}) ({STATE})")

WORDING = text.Wording(
    [
        "write a note from {sender} to {reader} : {facts} .",
        "{sender} writes to {reader} : {facts} .",
        "note from {sender} to {reader} : {facts} .",
        "{facts} : write this to {reader} from {sender} .",
        "write to {reader} : {facts} . it is from {sender} .",
    ],
    sender=NAME,
    reader=NAME,
    facts=rf"{FACT.pattern}(?: , {FACT.pattern})*",
)


@dataclass(frozen=True)
class Note(Problem):
    sender: str
    reader: str
    facts: tuple[tuple[str, str], ...]


class Writing(Family[Note]):
    """Level n has n facts."""

    name = "writing"
    label = "Writing"

    def generate(self, level: int, rng: random.Random) -> str:
        sender, reader = rng.sample(NAMES, 2)
        facts = " , ".join(f"{thing} {rng.choice(STATES)}" for thing in rng.sample(THINGS, level))
        return WORDING.write(rng, sender=sender, reader=reader, facts=facts)

    def parse(self, instruction: str) -> Note | None:
        values = WORDING.read(instruction)
        if values is None:
            return None
        # Without repetitions, because the grade counts each fact once.
        facts = tuple(dict.fromkeys((thing, state) for thing, state in FACT.findall(values["facts"])))
        return Note(min(len(facts), 5), values["sender"], values["reader"], facts)

    def plain(self, problem: Note) -> str:
        return f"dear {problem.reader} , {_facts(problem)} . {problem.sender}"

    def styled(self, problem: Note) -> str:
        return f"dear {problem.reader} , i hope you are well . {_facts(problem)} . please write soon . {problem.sender}"

    def grade(self, problem: Note, answer: str) -> float:
        """0.6 · (right − wrong facts) / number of facts, and 0.2 each for greeting and signature; 0 without a fact."""
        stated = re.findall(rf"the ({THING}) is ({STATE})", answer)
        right = len(set(stated) & set(problem.facts))
        share = max(0, right - (len(stated) - right)) / len(problem.facts)
        if share == 0:
            return 0.0
        greeted = answer.startswith(f"dear {problem.reader} ")
        signed = answer.strip(" .").endswith(f" {problem.sender}")
        return round(0.6 * share + 0.2 * greeted + 0.2 * signed, 6)


def _facts(problem: Note) -> str:
    return " and ".join(f"the {thing} is {state}" for thing, state in problem.facts)
