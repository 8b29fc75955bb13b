"""Replies of the simulated judge: grades as scores of 1 to 10, with the noise and biases that are switched on."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tapir_ray.data.words import piece_ends
from tapir_ray.simulator import requests
from tapir_ray.simulator.options import Options
from tapir_ray.simulator.requests import Request

_CRITERION = re.compile(r"^- (\w+):", re.MULTILINE)


def answers_in(request: Request) -> list[str]:
    """The one or two answers that a request of JUDGINGS asks about, in their order."""
    return [request.parts[name] for name in ("answer", "answer_1", "answer_2") if name in request.parts]


def reply_about(options: Options, request: Request, grades: Sequence[float]) -> str:
    """The reply to a request of JUDGINGS, from the grade of each answer.

    Under a rubric all criteria of an answer have its grade, each with noise of its own: the simulator has no opinion on
    style or clarity.
    """
    answers = answers_in(request)
    if request.kind not in (requests.RUBRIC, requests.RUBRIC_ONE):
        return verdict(scores(options, request.identity, grades, answers), request.schema)
    names = _CRITERION.findall(request.parts["criteria"])
    by_name = {name: scores(options, f"{request.identity} {name}", grades, answers) for name in names}
    marks = [{name: by_name[name][place] for name in names} for place in range(len(answers))]
    return rubric_verdict(marks, whole=request.schema is not None)


def scores(options: Options, identity: str, grades: Sequence[float], answers: Sequence[str]) -> list[float]:
    """1 + 9 · grade for each answer, plus noise and biases, rounded to halves and clipped to 1 and 10.

    `grades` are in [0, 1]; 0.5 without noise gives 5.5. A right answer is a 10 in any style. Noise is drawn from a hash
    of the request: the same request gets the same noise, another `seed` gets other noise.
    """
    rng = random.Random(f"{options.seed} noise {identity}")
    given = []
    for place, (grade, answer) in enumerate(zip(grades, answers, strict=True)):
        score = 1.0 + 9.0 * grade
        if options.judge_noise:
            score += rng.gauss(0.0, options.judge_noise)
        if options.position_bias and place == 0 and len(grades) > 1:
            score += options.position_bias
        if options.length_bias:
            score += options.length_bias * len(piece_ends(answer)) / 100
        given.append(min(10.0, max(1.0, round(2 * score) / 2)))
    return given


def verdict(given: Sequence[float], schema: dict[str, Any] | None = None) -> str:
    """The reply: a sentence of reasoning, then the line of scores that the judge prompts ask for.

    With a schema the reply is JSON: the reasoning fills its string fields, the scores its number fields, in order.
    Halves are rounded up for integer fields.
    """
    names = ["The answer"] if len(given) == 1 else [f"Answer {place}" for place in range(1, len(given) + 1)]
    words = [f"{name} is {_word(score)}" for name, score in zip(names, given, strict=True)]
    if schema is not None:
        return _in_json(f"{' and '.join(words)}.", given, schema)
    title = "Score" if len(given) == 1 else "Scores"
    return f"{' and '.join(words)}.\n{title}: {' '.join(f'{score:g}' for score in given)}"


def rubric_verdict(marks: Sequence[Mapping[str, float]], whole: bool) -> str:
    """The reply to a request with a rubric: JSON of the reasoning and of each answer's scores by criterion.

    With `whole` halves are rounded up.
    """
    names = ["answer"] if len(marks) == 1 else [f"answer_{place}" for place in range(1, len(marks) + 1)]
    words = [f"{name} is {_word(fmean(of_one.values()))}" for name, of_one in zip(names, marks, strict=True)]
    given = [{key: math.floor(mark + 0.5) if whole else mark for key, mark in of_one.items()} for of_one in marks]
    return json.dumps({"reasoning": f"{' and '.join(words)}.", **dict(zip(names, given, strict=True))})


def _in_json(reasoning: str, given: Sequence[float], schema: dict[str, Any]) -> str:
    left = list(given)
    reply: dict[str, Any] = {}
    for name, wanted in schema.get("properties", {}).items():
        if wanted.get("type") == "string":
            reply[name] = reasoning
        elif left:
            score = left.pop(0)
            reply[name] = math.floor(score + 0.5) if wanted.get("type") == "integer" else score
    return json.dumps(reply)


def _word(score: float) -> str:
    return "right" if score >= 9 else "partly right" if score >= 4 else "wrong"
