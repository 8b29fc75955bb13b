"""Probabilities of the first token of a reply, in the format of OpenAI's chat completions."""

from __future__ import annotations

import math
from typing import Any


def first_token(choice: dict[str, Any]) -> dict[str, float] | None:
    """Returns the log probabilities of the likeliest first tokens of a choice, by token; None if it has none.

    Entries in another format are left out. Never raises.
    """
    found = choice.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    listed = first.get("top_logprobs") if isinstance(first, dict) else None
    by_token: dict[str, float] = {}
    for one in listed if isinstance(listed, list) else []:
        token, logprob = (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
        if not isinstance(token, str) or not isinstance(logprob, int | float) or isinstance(logprob, bool):
            continue
        if math.isfinite(logprob):
            # A token may be half of a character.
            by_token.setdefault(token.encode("utf-8", "replace").decode(), float(logprob))
    return by_token or None
