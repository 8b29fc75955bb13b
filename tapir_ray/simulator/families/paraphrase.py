"""Paraphrase: the answer replaces words of a sentence by given synonyms."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tapir_ray.simulator import text
from tapir_ray.simulator.families.base import Family, Problem
from tapir_ray.simulator.families.vocabulary import NAME, NAMES

VERBS = (("buys", "gets"), ("likes", "loves"), ("sees", "spots"))
ADJECTIVES = (("big", "large"), ("small", "tiny"), ("clean", "tidy"), ("old", "ancient"))
NOUNS = (("hat", "cap"), ("cup", "mug"), ("bag", "sack"), ("lamp", "light"))
PLACES = (("house", "home"), ("street", "road"), ("shop", "store"))
KINDS = (VERBS, ADJECTIVES, NOUNS, PLACES)
OTHER = {a: b for kind in KINDS for pair in kind for a, b in (pair, pair[::-1])}
WORD = text.one_of(tuple(OTHER))
CLAUSE = rf"{NAME} {WORD} the {WORD} {WORD}(?: in the {WORD})?"
CHANGES = {1: 1, 2: 2, 3: 2, 4: 3, 5: 4}
CLAUSES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 2}

WORDING = text.Wording(
    [
        "use {changes} : {sentence} .",
        "write {changes} : {sentence} .",
        "{sentence} . write it with {changes} .",
        "{reader} wants {changes} : {sentence} .",
        "use {changes} for {reader} : {sentence} .",
    ],
    reader=NAME,
    changes=rf"{WORD} for {WORD}(?: , {WORD} for {WORD})*",
    sentence=rf"{CLAUSE}(?: and {CLAUSE})*",
)


@dataclass(frozen=True)
class Rewording(Problem):
    wrong: tuple[str, ...]
    right: tuple[str, ...]


class Paraphrase(Family[Rewording]):
    """Level n: 1, 2, 2, 3, 4 words to change in 1, 1, 2, 2, 2 clauses."""

    name = "paraphrase"
    label = "Paraphrase"

    def generate(self, level: int, rng: random.Random) -> str:
        pairs = [rng.sample(kind, min(CLAUSES[level], len(kind))) for kind in KINDS]
        clauses = []
        for i in range(CLAUSES[level]):
            verb, adjective, noun, place = (rng.choice(kind[i]) for kind in pairs)
            where = f" in the {place}" if level >= 2 else ""
            clauses.append(f"{rng.choice(NAMES)} {verb} the {adjective} {noun}{where}")
        sentence = " and ".join(clauses)
        changeable = [word for word in sentence.split() if word in OTHER]
        changes = " , ".join(f"{OTHER[word]} for {word}" for word in rng.sample(changeable, CHANGES[level]))
        return WORDING.write(rng, reader=rng.choice(NAMES), changes=changes, sentence=sentence)

    def parse(self, instruction: str) -> Rewording | None:
        values = WORDING.read(instruction)
        if values is None:
            return None
        changes = {old: new for new, old in re.findall(r"(\w+) for (\w+)", values["changes"])}
        sentence = values["sentence"].split()
        clauses = 1 + sentence.count("and")
        level = {1: 1, 2: 2 if clauses == 1 else 3, 3: 4}.get(len(changes), 5)
        return Rewording(level, tuple(sentence), tuple(changes.get(word, word) for word in sentence))

    def plain(self, problem: Rewording) -> str:
        return " ".join(problem.right)

    def styled(self, problem: Rewording) -> str:
        """The plain answer: the instruction asks for the reworded text alone."""
        return self.plain(problem)

    def grade(self, problem: Rewording, answer: str) -> float:
        return text.repaired(answer.strip(" .").split(), problem.right, problem.wrong)
