"""Usage of a reply: never counted lower than reported, in any of the shapes that providers use."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tapir_ray.llm.client.usage_fields import read_usage


def usage(prompt: Any = 10, completion: Any = 5, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


def details(**values: Any) -> dict[str, Any]:
    return {f"{key}_tokens_details": value for key, value in values.items()}


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        # (input, cached, output, reasoning)
        (usage(total_tokens=15), (10, 0, 5, 0)),
        (usage(**details(prompt={"cached_tokens": 4}, completion={"reasoning_tokens": 3})), (10, 4, 5, 3)),
        # xAI and Gemini: only the total includes reasoning.
        (usage(total_tokens=115, **details(completion={"reasoning_tokens": 100})), (10, 0, 105, 100)),
        (usage(total_tokens=115), (10, 0, 105, 0)),
        (usage(**details(completion={"reasoning_tokens": 100})), (10, 0, 105, 100)),
        (usage(total_tokens=15, **details(completion={"reasoning_tokens": 100})), (10, 0, 105, 100)),
        (usage(total_tokens=3), (10, 0, 5, 0)),
        (usage(total_tokens=0), (10, 0, 5, 0)),
        (usage(completion=None, total_tokens=15), (10, 0, 5, 0)),
        # More cached than input tokens: they were counted separately.
        (usage(**details(prompt={"cached_tokens": 90})), (100, 90, 5, 0)),
        ({"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 3}, (13, 3, 5, 0)),
        ({"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": 9}, (19, 0, 5, 0)),
        # DeepSeek and Kimi
        (usage(prompt_cache_hit_tokens=4, prompt_cache_miss_tokens=6), (10, 4, 5, 0)),
        (usage(cached_tokens=4), (10, 4, 5, 0)),
        # Other types.
        (usage("10", "5", total_tokens="15"), (10, 0, 5, 0)),
        (usage(10.0, 4.2), (10, 0, 5, 0)),
        (usage(**details(prompt=[{"cached_tokens": 4}], completion="none")), (10, 4, 5, 0)),
        (usage(**details(prompt=None, completion=[3, None])), (10, 0, 5, 0)),
        (usage(**details(prompt={"cached_tokens": -4}, completion={"reasoning_tokens": "3"})), (10, 0, 5, 3)),
    ],
)
def test_usage_fields_are_read(given: Any, tokens: tuple[int, int, int, int]) -> None:
    count, known = read_usage(given, "x")
    assert known
    assert (count.input_tokens, count.cached_tokens, count.output_tokens, count.reasoning_tokens) == tokens


@pytest.mark.parametrize(
    "given",
    [
        None,
        "10 tokens",
        7,
        [],
        [{"prompt_tokens": 10}],
        {},
        usage(0, 0),
        usage(-10),
        usage(completion=-5),
        usage(completion=None),
        usage(True, 5),
        usage("many"),
        usage(math.nan),
        usage(math.inf),
        usage(10**30),
    ],
)
def test_unreadable_usage_counts_at_its_worst_case(given: Any) -> None:
    count, known = read_usage(given, "x")
    assert not known and (count.requests, count.tokens) == (1, 0)
