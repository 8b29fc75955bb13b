"""Forecast of the suites: answers of the students, and requests to the judge.

    lines = suite_lines(config, {"mt_bench": (guess, bound)})      # lines of the estimate, one for each suite and role
    work = suites_work(config, {"mt_bench": (guess, bound)})       # {"mt_bench": {"students": 3, "answers": 480, …}}

The holdout is among the rounds' requests (`estimate.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from tapir_ray.config import Config
from tapir_ray.config.evaluate import CONTROL, INITIAL, name_of
from tapir_ray.cost.estimate import Line, priced
from tapir_ray.cost.judging import JUDGE_TOKENS
from tapir_ray.cost.size import BYTES_PER_TOKEN, Size
from tapir_ray.evaluate.suite import Forecast
from tapir_ray.llm.client.request import TOKENS_PER_MESSAGE, TOKENS_PER_REQUEST

Forecasts = Mapping[str, tuple[Forecast, Forecast] | None]
"""By suite: its forecast with answers of the guessed length, and with the longest ones; None if it has no forecast."""


def measured_students(config: Config) -> int:
    """Returns the number of students that each suite measures, at most: last, initial and control."""
    wanted = config.evaluate.students
    if config.evaluate.only:
        return 1
    return 1 + (INITIAL in wanted and config.student.spec.local) + (CONTROL in wanted and config.control != "none")


def suite_lines(config: Config, forecasts: Forecasts) -> list[Line]:
    """Returns the lines of the estimate for all students together; a suite without a forecast has none."""
    students, lines = measured_students(config), []
    for spec, found in forecasts.items():
        if found is None:
            continue
        guess, most = found
        stage = f"evaluate {name_of(spec)}"
        if guess.judge_prompts:
            size, bound = _judged(config, guess, most)
            lines.append(priced(config, stage, "judge", size.times(students), bound.times(students)))
        if config.student.endpoint is not None and guess.answers:
            limit = float(config.student.sampling.max_tokens)
            size = Size(guess.answers, 0.0, guess.answers * limit)
            lines.append(priced(config, stage, "student", size.times(students), size.times(students)))
    return lines


def suites_work(config: Config, forecasts: Forecasts) -> dict[str, dict[str, int] | None]:
    """Returns the students, and the answers and judge's requests of all of them, by name of the suite."""
    students = measured_students(config)
    return {
        name_of(spec): None
        if found is None
        else {
            "students": students,
            "answers": students * found[0].answers,
            "judge_requests": students * len(found[0].judge_prompts),
        }
        for spec, found in forecasts.items()
    }


def suites_assumed(config: Config, forecasts: Forecasts) -> list[str]:
    """Returns the assumptions of these figures, and the suites that are not counted, as sentences."""
    unknown = [name_of(spec) for spec, found in forecasts.items() if found is None]
    said = [f"the suite {name} is not counted, as it has no forecast" for name in unknown]
    if any(found is not None for found in forecasts.values()) and config.student.endpoint is not None:
        said.append("suites: the prompts of the student's endpoint are not counted, and its answers are the longest")
    return said


def _judged(config: Config, guess: Forecast, most: Forecast) -> tuple[Size, Size]:
    """Returns (guessed size, bound) of the judge's requests for one student."""
    sampling, attempts = config.judge_endpoint, config.judge.parse_attempts
    limit = sampling.max_completion_tokens or config.judge.sampling.max_tokens
    reply = JUDGE_TOKENS if guess.judge_tokens is None else guess.judge_tokens
    calls, longest = len(guess.judge_prompts), len(most.judge_prompts)
    sent = sum(len(text.encode()) for text in guess.judge_prompts) / BYTES_PER_TOKEN
    overhead = longest * (2 * TOKENS_PER_MESSAGE + TOKENS_PER_REQUEST)
    bound = sum(len(text.encode()) for text in most.judge_prompts) + overhead
    return Size(calls, sent, calls * min(reply, limit)), Size(longest, bound, longest * limit).times(attempts)


def guessed_answer(responses: list[str], config: Config) -> str:
    """Returns a text as long as a mean response of the seed data; without any, as half of the longest answer."""
    longest = BYTES_PER_TOKEN * config.student.sampling.max_tokens
    length = sum(map(len, responses)) / len(responses) if responses else longest / 2
    return "x" * min(longest, round(length))
