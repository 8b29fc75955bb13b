"""Grammar: sentences have a wrong verb form, article or number; the answer corrects them."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from tapir_ray.simulator import text
from tapir_ray.simulator.families.base import Family, Problem
from tapir_ray.simulator.families.vocabulary import NAME, NAMES, THING, THINGS

VERBS = {"has": "have", "likes": "like", "wants": "want", "sees": "see"}
"""Plural forms of verbs by their singular forms."""
SINGULAR = {form: one for one, several in VERBS.items() for form in (one, several)}
PRONOUNS = {"he": True, "she": True, "we": False, "they": False}
ADJECTIVES = ("big", "small", "new", "old", "empty", "odd")
COUNTS = ("two", "three", "four")

CLAUSE = re.compile(
    rf"({NAME} and {NAME}|{NAME}|{text.one_of(tuple(PRONOUNS))}) ({text.one_of(tuple(SINGULAR))})"
    rf" ({text.one_of(('a', 'an', *COUNTS))})(?: ({text.one_of(ADJECTIVES)}))? ({THING})(s?)"
)
# Without capturing groups: a wording repeats it, and captures its own slots.
CLAUSE_FORM = re.sub(r"\((?!\?)", "(?:", CLAUSE.pattern)

WORDING = text.Wording(
    [
        "correct the grammar : {sentence} .",
        "write this in good english : {sentence} .",
        "{writer} wrote : {sentence} . correct it .",
        "correct this : {sentence} .",
        "{writer} says {sentence} . write it in good english .",
    ],
    writer=NAME,
    sentence=rf"{CLAUSE_FORM}(?: and {CLAUSE_FORM})*",
)


@dataclass(frozen=True)
class Sentence(Problem):
    wrong: tuple[str, ...]
    right: tuple[str, ...]


class Grammar(Family[Sentence]):
    """Level 1: a short clause; 2: with an adjective; 3 and 4: two clauses with one and several errors; 5: three."""

    name = "grammar"
    label = "Grammar"

    def generate(self, level: int, rng: random.Random) -> str:
        clauses = [_clause(rng, adjective=level >= 2) for _ in range({1: 1, 2: 1, 3: 2, 4: 2}.get(level, 3))]
        faulty = {rng.randrange(len(clauses))} if level <= 3 else set(range(len(clauses)))
        written = [_break(words, rng, level) if i in faulty else words for i, words in enumerate(clauses)]
        sentence = " and ".join(" ".join(words) for words in written)
        return WORDING.write(rng, writer=rng.choice(NAMES), sentence=sentence)

    def parse(self, instruction: str) -> Sentence | None:
        values = WORDING.read(instruction)
        if values is None:
            return None
        wrong = values["sentence"]
        clauses = list(CLAUSE.finditer(wrong))
        right = " and ".join(_right(match) for match in clauses)
        errors = sum(a != b for a, b in zip(wrong.split(), right.split(), strict=True))
        if len(clauses) == 1:
            level = 2 if clauses[0].group(4) else 1
        else:
            level = 5 if len(clauses) > 2 else 4 if errors > 1 else 3
        return Sentence(level, tuple(wrong.split()), tuple(right.split()))

    def plain(self, problem: Sentence) -> str:
        return " ".join(problem.right)

    def styled(self, problem: Sentence) -> str:
        changes = [f"{b} not {a}" for a, b in zip(problem.wrong, problem.right, strict=True) if a != b]
        return f"{self.plain(problem)} ( {' , '.join(changes)} )"

    def grade(self, problem: Sentence, answer: str) -> float:
        return text.repaired(answer.partition("(")[0].strip(" .").split(), problem.right, problem.wrong)


def _clause(rng: random.Random, adjective: bool) -> list[str]:
    several_people = rng.random() < 0.5
    if rng.random() < 0.7:
        subject = " and ".join(rng.sample(NAMES, 2)) if several_people else rng.choice(NAMES)
    else:
        subject = rng.choice([word for word, one in PRONOUNS.items() if one != several_people])
    verb = rng.choice(tuple(VERBS))
    several_things = rng.random() < 0.6
    described = [rng.choice(ADJECTIVES)] if adjective else []
    noun = rng.choice(THINGS) + ("s" if several_things else "")
    count = rng.choice(COUNTS) if several_things else _article([*described, noun][0])
    return [*subject.split(), VERBS[verb] if several_people else verb, count, *described, noun]


def _break(clause: list[str], rng: random.Random, level: int) -> list[str]:
    """The clause with one error: in the verb, and from level 2 on also in the article or the noun."""
    broken = list(clause)
    verb = next(i for i, word in enumerate(clause) if word in SINGULAR)
    if level == 1 or rng.random() < 0.5:
        one = SINGULAR[clause[verb]]
        broken[verb] = VERBS[one] if clause[verb] == one else one
    elif clause[verb + 1] in COUNTS:
        broken[-1] = clause[-1].removesuffix("s")
    else:
        broken[verb + 1] = "an" if clause[verb + 1] == "a" else "a"
    return broken


def _right(match: re.Match[str]) -> str:
    subject, verb, count, adjective, noun, _ = match.groups()
    one_person = PRONOUNS.get(subject, " and " not in subject)
    verb = SINGULAR[verb] if one_person else VERBS[SINGULAR[verb]]
    if count in COUNTS:
        noun += "s"
    else:
        count = _article(adjective or noun)
    return " ".join(word for word in (subject, verb, count, adjective, noun) if word)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
