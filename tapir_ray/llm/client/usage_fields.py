"""Usage in a reply, in the formats of many providers; never counted lower than the reply says.

count, known = read_usage(completion.get("usage"), kind="respond")
"""

from __future__ import annotations

import math
from typing import Any

from tapir_ray.llm.budget.usage import Count

_MOST = 10**12
"""Tokens. A larger number is an error of the endpoint."""


def read_usage(usage: Any, kind: str) -> tuple[Count, bool]:
    """Returns (count of one request, whether its tokens are known). Accepts any JSON value.

    If the total is larger than its parts, the rest counts as output, because xAI and Gemini's OpenAI adapter leave
    reasoning tokens out of `completion_tokens`. A detail larger than its whole is added to it: 50 cached of 20 input
    tokens are 70. Without a positive input, or without an output, the count is unknown: it has no tokens, and the
    request is counted with its worst case.
    """
    if not isinstance(usage, dict):
        return Count(kind, requests=1), False
    given = _first(usage, "prompt_tokens", "input_tokens")
    output = _first(usage, "completion_tokens", "output_tokens")
    total = _number(usage.get("total_tokens"))
    if not given or (output is None and total is None):
        return Count(kind, requests=1), False
    cached = _cached(usage)
    if "prompt_tokens" not in usage:
        # Anthropic's own API leaves tokens read from its cache or written to it out of input_tokens.
        given += (_number(usage.get("cache_read_input_tokens")) or 0) + (
            _number(usage.get("cache_creation_input_tokens")) or 0
        )
    if cached > given:
        given += cached
    reasoning = _reasoning(usage)
    output = max(output or 0, (total or 0) - given)
    if reasoning > output:
        # Gateways that add up the total themselves leave the reasoning out of it too.
        output += reasoning
    count = Count(
        kind,
        requests=1,
        input_tokens=given,
        cached_tokens=cached,
        output_tokens=output,
        reasoning_tokens=reasoning,
    )
    return count, True


def _cached(usage: dict[str, Any]) -> int:
    found = [
        _number(_details(usage, name).get("cached_tokens"))
        for name in ("prompt_tokens_details", "input_tokens_details")
    ]
    # DeepSeek, Kimi and Anthropic give it on the first level.
    found += [
        _number(usage.get(name)) for name in ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
    ]
    return max(number or 0 for number in found)


def _reasoning(usage: dict[str, Any]) -> int:
    found = [
        _number(_details(usage, name).get("reasoning_tokens"))
        for name in ("completion_tokens_details", "output_tokens_details")
    ]
    found.append(_number(usage.get("reasoning_tokens")))
    return max(number or 0 for number in found)


def _details(usage: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the details of a count, which some servers send as a list of mappings."""
    details = usage.get(name)
    if isinstance(details, list):
        return {key: value for part in details if isinstance(part, dict) for key, value in part.items()}
    return details if isinstance(details, dict) else {}


def _first(usage: dict[str, Any], *names: str) -> int | None:
    return next((number for name in names if (number := _number(usage.get(name))) is not None), None)


def _number(value: Any) -> int | None:
    """Returns a count of tokens, also from a string or a float; None for anything else and for negative numbers."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    # In Python, True is an int.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST or math.isnan(value):
        return None
    return math.ceil(value)
