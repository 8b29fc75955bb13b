"""Size of the requests to the judge about one answer or two, by `judge.mode`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tapir_ray.config import Config, Endpoint
from tapir_ray.cost.size import BYTES_PER_TOKEN, Size
from tapir_ray.data.schemas import text_of
from tapir_ray.transforms.judge_question import Question, Questions

JUDGE_TOKENS = 120
"""Guess: tokens of a judge's reasoning and scores; under a rubric those of the scores are added."""


def compared_size(
    config: Config,
    questions: Questions,
    row: Mapping[str, Any],
    answers: tuple[str, str],
    repeat_share: float,
    size: Any,
) -> Size:
    """Returns the size of the requests that score two answers to a row's instruction.

    `size` is the guess or the bound of a request (`sizes.py`).
    """
    instruction, task, judge = text_of(row["messages"]), row["task"], config.judge
    if judge.mode != "pointwise":
        calls = (2 if judge.both_orders else 1) * (1 + repeat_share)
        return asked_size(config, questions.pair(instruction, task, *answers), calls, size)
    alone = [asked_size(config, questions.one(instruction, task, one), 1 + repeat_share, size) for one in answers]
    return sum(alone, Size())


def asked_size(config: Config, question: Question, calls: float, size: Any) -> Size:
    """Returns the size of `calls` requests with a question. Providers count the schema as part of the prompt."""
    judge = config.judge
    schema = "" if judge.structured == "off" else json.dumps(question.format)
    limit = limit_of(config.judge_endpoint, judge.sampling.max_tokens)
    reply = JUDGE_TOKENS + len(question.form.encode()) / BYTES_PER_TOKEN
    found: Size = size(question.prompt + schema, 1, calls, judge.parse_attempts, reply, limit)
    return found


def limit_of(endpoint: Endpoint, max_tokens: int | None = None) -> int:
    """Returns the most tokens of a reply of an endpoint, whose sampling may allow `max_tokens` instead."""
    return endpoint.max_completion_tokens or max_tokens or endpoint.sampling.max_tokens
