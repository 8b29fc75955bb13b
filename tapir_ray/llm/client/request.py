"""Chat requests: their JSON, their key in the cache, and their worst case in tokens.

body = request_body(endpoint, messages, endpoint.sampling, seed=7)
request_key(target.scope, body), worst_case(body)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from tapir_ray.config import Endpoint, Sampling
from tapir_ray.data.schemas import Message

TOKENS_PER_MESSAGE, TOKENS_PER_REQUEST = 16, 64
"""Tokens that a chat template may add, including its own system prompt."""


def request_body(
    endpoint: Endpoint,
    messages: Sequence[Message],
    sampling: Sampling,
    seed: int | None,
    response_format: dict[str, Any] | None = None,
    top_logprobs: int | None = None,
) -> dict[str, Any]:
    """Returns the JSON of a chat request. Parameters at the protocol's default are left out."""
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [{"role": message["role"], "content": message["content"]} for message in messages],
        "temperature": sampling.temperature,
    }
    if endpoint.max_completion_tokens is None:
        body["max_tokens"] = sampling.max_tokens
    else:
        # OpenAI's reasoning models refuse `max_tokens`.
        body["max_completion_tokens"] = endpoint.max_completion_tokens
    if sampling.top_p < 1.0:
        body["top_p"] = sampling.top_p
    if seed is not None:
        body["seed"] = seed
    if response_format is not None:
        body["response_format"] = response_format
    if top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": top_logprobs}
    return {**body, **endpoint.extra_body}


def request_key(scope: str, body: dict[str, Any]) -> str:
    """Returns the key of a request: a 128-bit hash of its body and of the engine's `scope`, as 32 hex digits."""
    content = json.dumps([scope, body], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # `person` has a version: raise it when equal requests must not share their replies any more.
    return hashlib.blake2b(content.encode(), digest_size=16, person=b"tapir cache 2").hexdigest()


def worst_case(body: dict[str, Any]) -> tuple[int, int]:
    """Returns the most (input, output) tokens that a request can use, with one token per byte of text."""
    merged = {**body, **body.get("extra_body", {})}
    messages = merged["messages"]
    text = sum(len(str(message["content"]).encode("utf-8", "surrogatepass")) for message in messages)
    if merged.get("response_format"):
        text += len(json.dumps(merged["response_format"]))  # providers put the schema into the prompt
    limits = [merged[name] for name in ("max_tokens", "max_completion_tokens") if merged.get(name) is not None]
    tokens = text + TOKENS_PER_MESSAGE * len(messages) + TOKENS_PER_REQUEST
    return tokens, max(map(int, limits)) * int(merged.get("n") or 1)
