r"""Revisions of a student's steps by the simulated teacher: the first wrong one is found exactly, by the families.

revision("count the hats of ana : first 3 , finds 4 , loses 2 .", "1. 3 + 4 = 7\n2. 7 - 2 = 6\n3. answer : 6")
# "First faulty step: 2\n<revision>\n7 - 2 = 5 . answer : 5\n</revision>"
"""

from __future__ import annotations

import re

from tapir_ray.simulator.families import grade, understand
from tapir_ray.simulator.families.base import joined
from tapir_ray.simulator.text import canonical

NONE = "First faulty step: none"
_NUMBERED = re.compile(r"^\s*\d+\. ?", re.MULTILINE)


def revision(instruction: str, steps: str) -> str:
    """Returns the reply to numbered steps of a student.

    Steps of a family that does not read them, and of an instruction of no family, are judged together: the first one is
    faulty unless the whole answer is right.
    """
    known = understand(instruction)
    given = [canonical(step).strip(" ,.") for step in _NUMBERED.split(steps)[1:]]
    if known is None:
        return _faulty(1, "i do not know .")
    family, problem = known
    if len(family.steps(problem)) == 1:
        whole = " ".join(canonical(step) for step in _NUMBERED.split(steps)[1:])
        return NONE if grade(instruction, whole) == 1.0 else _faulty(1, family.styled(problem))
    kept: list[str] = []
    answer = family.steps(problem)[-1]
    for step in given:
        if step == answer or given == [family.plain(problem)]:
            return NONE
        if not family.is_right(problem, step, kept):
            break
        kept.append(step)
    return _faulty(len(kept) + 1, joined(family.next_steps(problem, kept)))


def _faulty(number: int, text: str) -> str:
    return f"First faulty step: {number}\n<revision>\n{text}\n</revision>"
