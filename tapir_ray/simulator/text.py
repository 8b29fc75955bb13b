"""Texts of the `tasks` scenario: words, wordings that the same templates write and read, and grades.

Texts are lower case with spaces around punctuation, so that a tiny student with one token per word can learn them.
Graders ignore white space, because tokenizers differ in it, and nothing else.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

WORD = re.compile(r"\d+|[a-z]+|[^\sa-z\d]")
SPLIT_NUMBER = re.compile(r"(?<=\d)\s+(?=\d)")
NEAR_MISS = 0.6
"""Highest grade of an answer that is not exactly right."""


def words(text: str) -> list[str]:
    """Lower-case words, numbers and single punctuation marks. Digits separated by white space are one number."""
    return WORD.findall(SPLIT_NUMBER.sub("", text.lower()))


def canonical(text: str) -> str:
    """The text in the form of the families: its `words`, separated by one space."""
    return " ".join(words(text))


def final(text: str, marker: str = "answer :") -> str:
    """The text after the last `marker`, without the reasoning of a styled answer; all of it if it has no marker."""
    return text.rpartition(marker)[2].strip(" .")


def one_of(choices: Sequence[str]) -> str:
    """A regular expression for any one of the words."""
    return "(?:" + "|".join(re.escape(choice) for choice in choices) + ")"


class Wording:
    """Several phrasings of one instruction: `write` fills a random template, `read` finds the values again."""

    def __init__(self, templates: Sequence[str], **slots: str) -> None:
        """`slots` gives the regular expression of each `{slot}`; a slot used twice must hold the same text twice."""
        self.templates = tuple(templates)
        self._patterns = [re.compile(_pattern(template, slots)) for template in templates]

    def write(self, rng: random.Random, **values: object) -> str:
        return rng.choice(self.templates).format(**values)

    def read(self, text: str) -> dict[str, str] | None:
        """The values of the first template that matches a whole canonical text; None if no template does."""
        for pattern in self._patterns:
            match = pattern.fullmatch(text)
            if match is not None:
                return match.groupdict()
        return None


def _pattern(template: str, slots: dict[str, str]) -> str:
    seen: set[str] = set()
    parts = []
    for part in re.split(r"(\{\w+\})", template):
        name = part[1:-1]
        if not part.startswith("{"):
            parts.append(re.escape(part))
        elif name in seen:
            parts.append(f"(?P={name})")
        else:
            seen.add(name)
            parts.append(f"(?P<{name}>{slots[name]})")
    return "".join(parts)


def similarity(answer: Sequence[str], right: Sequence[str]) -> float:
    """1 − word edit distance / length of the longer text, in [0, 1]; 0 if either text is empty."""
    if not answer or not right:
        return 0.0
    return float(Levenshtein.normalized_similarity(answer, right))


def near(answer: Sequence[str], right: Sequence[str]) -> float:
    """1 for the right words, else up to NEAR_MISS by their similarity s: NEAR_MISS · max(0, 2s − 1)."""
    if list(answer) == list(right):
        return 1.0
    return NEAR_MISS * max(0.0, 2 * similarity(answer, right) - 1)


def repaired(answer: Sequence[str], right: Sequence[str], wrong: Sequence[str]) -> float:
    """`near` for a text to correct. An answer no closer to `right` than to the `wrong` text gets a third of it, because
    an echo of the question is already similar to the right text."""
    grade = near(answer, right)
    if grade < 1.0 and similarity(answer, right) <= similarity(answer, wrong):
        return grade / 3
    return grade


def number(answer: str, right: int) -> float:
    """1 for the right number; NEAR_MISS · the share of right digits for another one of the same length; else 0.

    An answer with several numbers gets 0, because an echo of the question could contain the right one.
    """
    found = re.findall(r"\d+", answer)
    if len(found) != 1:
        return 0.0
    given, wanted = found[0], str(right)
    if given == wanted:
        return 1.0
    if len(given) != len(wanted):
        return 0.0
    return NEAR_MISS * sum(a == b for a, b in zip(given, wanted, strict=True)) / len(wanted)
