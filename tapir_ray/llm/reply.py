"""A reply of a model: what a chat completion says, and what became of it.

reply, count = understand(completion, endpoint.reasoning, kind="respond")
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tapir_ray.llm.usage import Count
from tapir_ray.records import FAILED, FILTERED, OK

CUT_OFF, REFUSED, EMPTY = "cut_off", "refused", "empty"
UNFINISHED_THINKING = "unfinished_thinking"
"""Reasons of a reply without a usable text."""
_TOO_LONG = re.compile("context_length_exceeded|maximum context length")
"""How OpenAI's API, vLLM and others refuse a request that does not fit the model."""
_THINK_TAG = re.compile(r"</?think>")


@dataclass(frozen=True)
class Reply:
    """An answer of a model, or why there is none.

    `status` is ok, filtered (`cut_off`, `refused`, `empty`) or failed (`unfinished_thinking`, `budget_used_up`, or the
    error's class and message). A cut-off reply keeps its text.
    """

    text: str | None
    reasoning: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    status: str = OK
    reason: str | None = None
    key: str | None = field(default=None, repr=False, compare=False)
    """Under which the cache knows it."""


class BadReply(Exception):
    """An HTTP success that is not a chat completion."""


def understand(completion: Any, reasoning: str, kind: str) -> tuple[Reply, Count]:
    """What the JSON of a chat completion says and what it used; reasoning is kept only for `keep`. Raises BadReply."""
    try:
        choice, used = completion["choices"][0], completion.get("usage")
        message, finish_reason = choice["message"], choice.get("finish_reason")
        content = message.get("content") or ""
        if not isinstance(content, str):
            raise TypeError
    except (LookupError, TypeError, AttributeError):
        raise BadReply(f"not a chat completion: {str(completion)[:200]}") from None
    count = Count(kind, requests=1)
    if used:
        prompt, output = used.get("prompt_tokens_details") or {}, used.get("completion_tokens_details") or {}
        count = Count(
            kind,
            requests=1,
            input_tokens=used.get("prompt_tokens") or 0,
            cached_tokens=prompt.get("cached_tokens") or 0,
            output_tokens=used.get("completion_tokens") or 0,
            reasoning_tokens=output.get("reasoning_tokens") or 0,
        )
    text, thoughts = split_thinking(content)
    thoughts = message.get("reasoning_content") or message.get("reasoning") or thoughts
    status, reason = OK, None
    if text is None or (not text.strip() and thoughts and finish_reason == "length"):
        status, reason, text = FAILED, UNFINISHED_THINKING, None
    elif finish_reason == "content_filter" or message.get("refusal"):
        status, reason = FILTERED, REFUSED
    elif finish_reason == "length":
        status, reason = FILTERED, CUT_OFF
    elif not text.strip():
        status, reason = FILTERED, EMPTY
    reply = Reply(
        text=text,
        reasoning=thoughts if reasoning == "keep" else None,
        finish_reason=finish_reason,
        model=completion.get("model"),
        input_tokens=count.input_tokens,
        output_tokens=count.output_tokens,
        status=status,
        reason=reason,
    )
    return reply, count


def too_long(reason: str | None) -> bool:
    """Whether the reason of a failed reply says that the request does not fit the model: asking again is of no use."""
    return _TOO_LONG.search(reason or "") is not None


def split_thinking(content: str) -> tuple[str | None, str | None]:
    """(text, thoughts) of a reply that may begin with thinking; text None where `<think>` is never closed.

    The opening tag may be missing, since some models have it in the prompt (DeepSeek-R1, Qwen3). Thinking ends at the
    last `</think>` that closes no `<think>` of the text: an answer that shows both tags, as code does, stays whole.
    """
    opened = content.lstrip().startswith("<think>")
    rest = content.lstrip().removeprefix("<think>") if opened else content
    end: re.Match[str] | None = None
    depth = 0
    for tag in _THINK_TAG.finditer(rest):
        if tag[0] == "<think>":
            depth += 1
        elif depth:
            depth -= 1
        else:
            end = tag
    if end is None and opened:
        # Thoughts that name the opening tag: whatever closes one ends them.
        end = next(re.finditer("</think>", rest), None)
    if end is not None:
        return rest[end.end() :].lstrip(), rest[: end.start()].strip() or None
    return (None, rest.strip() or None) if opened else (content, None)
