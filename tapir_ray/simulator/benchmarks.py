"""Replies of the simulated judge to the requests of MT-Bench and AlpacaEval.

It grades an answer as in the scenario if the question is of its families or in its file. Else it compares the answer
with the reference answer that the request shows, and without one with the words of the question. Such grades are good
for trying a pipeline and say nothing about a student.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tapir_ray.simulator import requests
from tapir_ray.simulator.judging import scores
from tapir_ray.simulator.options import Options
from tapir_ray.simulator.requests import Request
from tapir_ray.simulator.rouge import coverage, rouge_l

Known = Callable[[str, str], float | None]
"""Grade of (question, answer) in the scenario, in [0, 1]; None for a question that it does not know."""
LOWEST = -20.0
"""Natural logarithm of the smallest probability of a token in a reply."""


def judged(options: Options, request: Request, known: Known) -> str:
    """The reply: `Rating: [[7.5]]` after a sentence for MT-Bench, the name of the better answer for AlpacaEval."""
    if request.kind == requests.PREFERENCE:
        first, second = requests.NAMES
        return first if _first_wins(options, request, known) >= 0.5 else second
    turn = "2" if request.kind == requests.MT_BENCH_2 else "1"
    question, answer = request.parts[f"question_{turn}"], request.parts[f"answer_{turn}"]
    grade = _grade(known, question, answer, request.parts.get(f"reference_{turn}"))
    (score,) = scores(options, request.identity, [grade], [answer])
    return f"The answer to turn {turn} covers {round(100 * grade)} % of what was asked.\nRating: [[{score:g}]]"


def first_token(options: Options, request: Request, known: Known) -> dict[str, float] | None:
    """Natural log probabilities of the names of both answers; None for a request that is not AlpacaEval's.

    The first has the probability 1 / (1 + exp(s₂ − s₁)) of the scores s from 1 to 10.
    """
    if request.kind != requests.PREFERENCE:
        return None
    p = _first_wins(options, request, known)
    return {
        name: max(LOWEST, math.log(max(share, 1e-12))) for name, share in zip(requests.NAMES, (p, 1.0 - p), strict=True)
    }


def _first_wins(options: Options, request: Request, known: Known) -> float:
    answers = [request.parts["output_1"], request.parts["output_2"]]
    grades = [_grade(known, request.parts["instruction"], answer, None) for answer in answers]
    one, two = scores(options, request.identity, grades, answers)
    return 1.0 / (1.0 + math.exp(two - one))


def _grade(known: Known, question: str, answer: str, reference: str | None) -> float:
    grade = known(question, answer)
    if grade is not None:
        return grade
    return coverage(answer, question) if reference is None else rouge_l(answer, reference)
