"""Steps of an explanation, and the teacher's reply that names the first faulty one.

found = split_steps("3 + 4 = 7. Then 7 - 2 = 6. The answer is 6.", STEP_PATTERN)
found.steps              # ("3 + 4 = 7.", "Then 7 - 2 = 6.", "The answer is 6.")
found.before(2)          # "3 + 4 = 7. Then 7 - 2 = 6. ", the text before the third step
parse_revision("First faulty step: 2\n<revision>\n7 - 2 = 5. The answer is 5.\n</revision>", found)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tapir_ray.data.final_answer import answer_key, final_place

RIGHT, FAULTY = "right", "faulty"
"""Verdicts of the teacher on an explanation."""
_FIRST = re.compile(r"^[\s*_#>]*first faulty step[*_\s]*:[*_\s]*(none|\d+)\b", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"[\s#*]*(?:step\s*)?(?:\d+[.):]*)?[\s*]*", re.IGNORECASE)
_REVISION = re.compile(r"<revision>(.*?)</revision>", re.DOTALL)


@dataclass(frozen=True)
class Explanation:
    """A text and the ends of its steps. The last step has the final answer, if the text marks one."""

    text: str
    ends: tuple[int, ...]
    """Positions after each step and the separator that follows it; the last one is the length of the text."""

    @property
    def steps(self) -> tuple[str, ...]:
        """Texts of the steps, without white space at their ends."""
        return tuple(self.text[start:end].strip() for start, end in zip((0, *self.ends), self.ends, strict=False))

    def before(self, steps: int) -> str:
        """Returns the text of the first `steps` steps, with the separator after them."""
        return self.text[: self.ends[steps - 1]] if steps else ""

    def prefixes(self, most: int) -> list[int]:
        """Returns the numbers of steps of the prefixes to continue: 1, 2, … without the last step.

        Of more than `most` those at equal distances: `prefixes(2)` of 5 steps is [2, 4].
        """
        count = len(self.ends) - 1
        return list(range(1, count + 1)) if count <= most else [(i + 1) * count // most for i in range(most)]


@dataclass(frozen=True)
class Revision:
    """The teacher's verdict on an explanation."""

    first_faulty: int | None
    """Number of the first faulty step, from 1; None if all are right."""
    revised: str
    """The teacher's own text; empty if all steps are right."""
    text: str
    """The whole explanation to learn: the kept steps, and the revised ones."""

    @property
    def verdict(self) -> str:
        return RIGHT if self.first_faulty is None else FAULTY


def split_steps(text: str, pattern: str) -> Explanation:
    """Returns the steps of a text, split at the matches of `pattern`; a text without steps is one.

    The step in which the final answer is marked or announced goes on to the end of the text.
    """
    place = final_place(text)
    ends: list[int] = []
    for match in re.finditer(pattern, text):
        # The number of a step, such as "2.", belongs to the text after it.
        begins_step = not _NUMBER.fullmatch(text[ends[-1] if ends else 0 : match.start()])
        if not text[match.end() :].strip() or (place is not None and match.end() > place):
            break
        if begins_step:
            ends.append(match.end())
    return Explanation(text, (*ends, len(text)))


def joined(before: str, after: str) -> str:
    """Returns a continuation after a prefix, separated as the prefix ends: by its line break, or by a space."""
    if not before.strip():
        return after.strip()
    space = "\n" if before.rstrip(" \t") != before.rstrip() else " "
    return f"{before.rstrip()}{space}{after.strip()}"


def final_answers(before: str, continuations: Sequence[str | None]) -> list[str | None]:
    """Returns the final answer of each continuation of a prefix, in a form in which equal answers are equal texts."""
    return [None if one is None else answer_key(joined(before, one)) for one in continuations]


def parse_revision(reply: str, explanation: Explanation) -> Revision | None:
    """Returns the revision in a teacher's reply; None if it names no step, or one that does not exist.

    A step after the last one is named if only the end is missing.
    """
    found = _FIRST.findall(reply)
    revised = [text.strip() for text in _REVISION.findall(reply)]
    if not found:
        return None
    if found[-1].lower() == "none":
        return Revision(None, "", explanation.text.strip())
    number = int(found[-1])
    if not 1 <= number <= len(explanation.ends) + 1 or not revised or not revised[-1]:
        return None
    return Revision(number, revised[-1], joined(explanation.before(number - 1), revised[-1]))
