"""Scenario `tasks`: answers, labels, rewrites, expands and grades the instructions of the families, from their text."""

from __future__ import annotations

import random

from tapir_ray.errors import InputError
from tapir_ray.simulator import requests
from tapir_ray.simulator.benchmarks import first_token, judged
from tapir_ray.simulator.families import LEVELS, Family, Problem, grade, understand
from tapir_ray.simulator.judging import answers_in, reply_about
from tapir_ray.simulator.options import Options
from tapir_ray.simulator.requests import Request
from tapir_ray.simulator.revising import revision
from tapir_ray.simulator.text import canonical

UNKNOWN = "i do not know ."
"""Answer to an instruction of no family; any answer to such an instruction gets the lowest score."""
HARDER = 0.3
"""Share of the expansions like an instruction that are one level above it; the others keep its level."""
SAME_LEVEL = ("similar length and difficulty", "more specific")
"""Words of the operations of `evolve` that add nothing to a problem. All others make it one level harder."""

MISTAKES = 0.18
"""Share of the problems of level 1 that the simulated student gets wrong; level n has n times as many (0.9 at 5)."""


class Tasks:
    """Teacher and judge that know every family; see `reply`."""

    def __init__(self, options: Options) -> None:
        """Raises InputError for a `teacher_error_rate` or `revision_error_rate` that is no share."""
        for name in ("teacher_error_rate", "revision_error_rate"):
            if not 0.0 <= (rate := getattr(options, name)) <= 1.0:
                raise InputError(f"the simulator's {name} {rate:g} must be from 0 to 1")
        self.options = options

    def reply(self, request: Request) -> str:
        """The text of the reply, a function of the request and the options."""
        parts = request.parts
        if request.kind in requests.JUDGINGS:
            return self._judge(request)
        if request.kind in requests.BENCHMARKS:
            return judged(self.options, request, known)
        if request.kind == requests.EXPAND:
            weakness = f"The student needs practice in {parts['task']}. " if "level" in parts else ""
            return f"{weakness}<new_instruction>{self._expand(request)}</new_instruction>"
        if request.kind == requests.LABEL:
            return _label(parts["instruction"], parts["labels"].split("\n"))
        if request.kind == requests.REVISE:
            return self._revise(parts["instruction"], parts["steps"])
        if request.kind == requests.REWRITE:
            return self._teach(parts["instruction"], styled=True)
        asked = [message["content"] for message in request.conversation if message["role"] == "user"]
        instruction = asked[-1] if asked else ""
        if request.model == requests.STUDENT:
            return self._attempt(instruction)
        return self._teach(instruction, styled=request.kind == requests.STYLED)

    def first_token(self, request: Request) -> dict[str, float] | None:
        """Log probabilities of the reply's first token, for requests whose verdict is one token."""
        return first_token(self.options, request, known)

    def _teach(self, instruction: str, styled: bool) -> str:
        """The teacher's answer: the right one, or that of another problem.

        `teacher_error_rate` is the share of the instructions with wrong answers. A hash of the instruction and `seed`
        decides which, so plain and styled answers and rewritings of an instruction are to the same problem.
        """
        rate = self.options.teacher_error_rate
        if rate == 0.0:
            return answer(instruction, styled)
        rng = random.Random(f"{self.options.seed} teach {canonical(instruction)}")
        return answer(mistaken(instruction, rng) if rng.random() < rate else instruction, styled)

    def _revise(self, instruction: str, steps: str) -> str:
        """The first faulty step of a student, and the right steps from there; those of another problem if the teacher
        is wrong about the instruction (`teacher_error_rate`) or its steps (`revision_error_rate`)."""
        rates, about = self.options, instruction
        for what, rate in (("teach", rates.teacher_error_rate), ("revise", rates.revision_error_rate)):
            rng = random.Random(f"{rates.seed} {what} {canonical(instruction)}")
            if about == instruction and rate > 0.0 and rng.random() < rate:
                about = mistaken(instruction, rng)
        return revision(about, steps)

    def _attempt(self, instruction: str) -> str:
        """A student's answer: the right one, or with probability MISTAKES · level that of another problem."""
        known = understand(instruction)
        if known is None:
            return UNKNOWN
        family, problem = known
        rng = random.Random(f"{self.options.seed} attempt {instruction}")
        wrong = rng.random() < MISTAKES * problem.level
        return answer(_other(family, problem.level, rng, instruction) if wrong else instruction, styled=False)

    def _judge(self, request: Request) -> str:
        answers = answers_in(request)
        return reply_about(self.options, request, [grade(request.parts["instruction"], one) for one in answers])

    def _expand(self, request: Request) -> str:
        """Another instruction of the same family; "" for an unknown instruction.

        It is of the same level or the next. With `evolve` the operation decides, with `feedback` the level is one
        below or above. A level that does not exist is the nearest one.
        """
        instruction = request.parts["instruction"]
        known = understand(instruction)
        if known is None:
            return ""
        family, problem = known
        rng = random.Random(f"{self.options.seed} expand {request.identity}")
        level = min(max(problem.level + _step(request.parts, rng), LEVELS[0]), LEVELS[-1])
        return _other(family, level, rng, instruction)


def _step(parts: dict[str, str], rng: random.Random) -> int:
    """Levels from an instruction to its expansion."""
    if "level" in parts:
        return 1 if parts["level"] == "harder" else -1
    if "operation" in parts:
        return 0 if any(words in parts["operation"] for words in SAME_LEVEL) else 1
    return int(rng.random() < HARDER)


def known(question: str, answer: str) -> float | None:
    """The grade of an answer, in [0, 1]; None for a question of no family."""
    return None if understand(question) is None else grade(question, answer)


def mistaken(instruction: str, rng: random.Random) -> str:
    """Another problem of the same family and level, whose answer is wrong for `instruction`.

    Its grade is below 1 in either style. An instruction of no family is returned as it is.
    """
    known = understand(instruction)
    if known is None:
        return instruction
    family, problem = known
    while True:
        other = _other(family, problem.level, rng, instruction)
        if all(grade(instruction, answer(other, styled)) < 1.0 for styled in (False, True)):
            return other


def _other(family: Family[Problem], level: int, rng: random.Random, instruction: str) -> str:
    while True:
        new = family.generate(level, rng)
        if new != instruction:
            return new


def answer(instruction: str, styled: bool) -> str:
    """The right answer, plain or in the style of the family's task; UNKNOWN for an instruction of no family."""
    known = understand(instruction)
    if known is None:
        return UNKNOWN
    family, problem = known
    return family.styled(problem) if styled else family.plain(problem)


def _label(instruction: str, labels: list[str]) -> str:
    """The label of the family; for a text of no family, or a label not offered, `Others`, else the last one offered."""
    offered = [label.strip() for label in labels if label.strip()]
    known = understand(instruction)
    if known is not None and known[0].label in offered:
        return known[0].label
    return "Others" if "Others" in offered or not offered else offered[-1]
