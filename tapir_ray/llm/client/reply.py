"""Replies of models: text, status and usage, read from the JSON of a chat completion.

got = understand(completion, endpoint, kind="respond")
got.reply, got.count, got.attempts
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from tapir_ray.config import Endpoint
from tapir_ray.data.schemas import FAILED, FILTERED, OK
from tapir_ray.data.thoughts import UNFINISHED_THINKING, split_thoughts
from tapir_ray.llm.budget.usage import Count
from tapir_ray.llm.client import ends
from tapir_ray.llm.client.faults import Fault, fault_in, is_blocked
from tapir_ray.llm.client.logprobs import first_token
from tapir_ray.llm.client.message import Content, read_message
from tapir_ray.llm.client.usage_fields import read_usage

CUT_OFF, REFUSED, EMPTY, TOOL_CALL = "cut_off", "refused", "empty", "tool_call"
"""Reasons of replies without a usable text; UNFINISHED_THINKING is another."""
BROKEN_OFF, UNKNOWN_END, NO_REPLY = "broken_off", "unknown_end", "no_reply"
"""Reasons of replies that failed after all attempts; a colon and the details follow."""
UNKNOWN_END_ATTEMPTS = 2
"""Few, because each attempt is paid for, and an endpoint with a name of its own sends it every time."""
_TOO_LONG = re.compile("context_length_exceeded|maximum context length")
"""Words of OpenAI's API, vLLM and others for a request that is longer than the context of the model."""


@dataclass(frozen=True)
class Reply:
    """An answer of a model, or the reason why it has none.

    `status` is ok, filtered (`cut_off`, `refused`, `empty`, `tool_call`) or failed (`unfinished_thinking`,
    `budget_used_up`, `broken_off: …`, `unknown_end: …`, or the class and message of the error). A cut-off reply keeps
    its text. `finish_reason` uses the names of OpenAI's protocol, whatever the endpoint sends.
    """

    text: str | None
    reasoning: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    status: str = OK
    reason: str | None = None
    logprobs: dict[str, float] | None = None
    """Natural logarithms of the probabilities of the likeliest first tokens, by token, if they were asked for."""
    key: str | None = field(default=None, repr=False, compare=False)
    """Key of the reply in the cache."""


@dataclass(frozen=True)
class Understood:
    """A reply with its usage.

    `known` is False if the reply does not give its usage. `attempts` limits the attempts after such a reply: 1 for
    none, None for the endpoint's `max_attempts`.
    """

    reply: Reply
    count: Count
    known: bool
    attempts: int | None = 1
    overloaded: bool = False


def understand(completion: Any, endpoint: Endpoint, kind: str, first: bool = False) -> Understood:
    """Reads the JSON of a chat completion. Accepts any JSON value and raises nothing.

    Thoughts are split off by `endpoint.thinking_marks`, and kept only with `endpoint.reasoning: keep`. `first` is True
    if the first token and its probabilities were asked for: a reply that has them may end after it.
    """
    whole = completion if isinstance(completion, dict) else {}
    count, known = read_usage(whole.get("usage"), kind)
    choices = whole.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice is None:
        return _without_choice(completion, whole, count, known)
    content, end, named = read_message(choice), *_end(choice, endpoint)
    fault = fault_in(whole) or fault_in(choice) or fault_in(choice.get("message"))
    thoughts, text, complete = split_thoughts(content.text, endpoint.thinking_marks)
    thoughts = _text("\n\n".join(content.thoughts) or thoughts)
    status, reason, attempts = _judged(content, end, named, fault, bool(thoughts), text, complete)
    logprobs = first_token(choice) if first else None
    if logprobs and reason == CUT_OFF:
        status, reason = OK, None
    # Text without output tokens: the endpoint does not really count, so the worst case is taken.
    unreported = known and not count.output_tokens and bool(content.text or content.thoughts)
    reply = Reply(
        text=None if status == FAILED else _text(text),
        reasoning=thoughts if endpoint.reasoning == "keep" else None,
        finish_reason=_text(named) if end in (ends.UNKNOWN, ends.BROKEN) else end,
        model=_text(whole.get("model")),
        input_tokens=count.input_tokens,
        output_tokens=count.output_tokens,
        status=status,
        reason=_text(reason),
        logprobs=logprobs,
    )
    overloaded = fault is not None and fault.overloaded
    return Understood(reply, Count(kind, 1) if unreported else count, known and not unreported, attempts, overloaded)


def _judged(
    content: Content, end: str, named: str | None, fault: Fault | None, thinks: bool, text: str, complete: bool
) -> tuple[str, str | None, int | None]:
    """Returns (status, reason, attempts) of a reply with a choice."""
    if (fault and fault.policy) or end == ends.FILTERED or content.refused:
        return FILTERED, REFUSED, 1
    if fault is not None:
        return FAILED, f"{BROKEN_OFF}: {fault.message}", None
    if end == ends.BROKEN:
        return FAILED, f"{BROKEN_OFF}: finish_reason {named}", None
    if content.problem is not None and end != ends.CUT:
        # A missing message may come with the next attempt. A message in another format comes in it every time.
        return FAILED, content.problem, None if content.problem.startswith("no_message") else 1
    if end not in (ends.CUT, ends.UNKNOWN) and _text(text) != text:
        return FAILED, "unreadable_content: half of a surrogate pair, which is not a character", 1
    if end == ends.UNKNOWN:
        what = "there is no finish_reason" if named is None else f"finish_reason {named!r} is not known"
        example = json.dumps({named or "": ends.WHOLE}, ensure_ascii=False)
        reason = f"{UNKNOWN_END}: {what}; if the answers are whole, set finish_reasons: {example} for the endpoint"
        return FAILED, reason, UNKNOWN_END_ATTEMPTS
    if end == ends.TOOL or content.calls_tool:
        return FILTERED, TOOL_CALL, 1
    if not complete or (thinks and not text.strip()):
        return FAILED, UNFINISHED_THINKING, 1
    if end == ends.CUT:
        return FILTERED, CUT_OFF, 1
    if not text.strip():
        return FILTERED, EMPTY, 1
    return OK, None, 1


def _without_choice(completion: Any, whole: dict[str, Any], count: Count, known: bool) -> Understood:
    """Reads a body without a choice: an error with HTTP 200, a filtered prompt, or something else."""
    fault = fault_in(whole)
    model = _text(whole.get("model"))
    if is_blocked(whole) or (fault and fault.policy):
        reply = Reply(None, model=model, finish_reason=ends.FILTERED, status=FILTERED, reason=REFUSED)
        return Understood(reply, count, known)
    if fault is None:
        what = json.dumps(completion, ensure_ascii=False)[:200]
        return Understood(
            Reply(None, status=FAILED, reason=f"{NO_REPLY}: not a chat completion: {what}"), count, known, None
        )
    reply = Reply(None, model=model, status=FAILED, reason=f"{NO_REPLY}: {fault.message}")
    # A body with an HTTP status counts as an HTTP error, which costs nothing.
    free = fault.status is not None
    return Understood(reply, count, known or free, None if fault.again else 1, fault.overloaded)


def _end(choice: dict[str, Any], endpoint: Endpoint) -> tuple[str, str | None]:
    """Returns (end, finish reason as the endpoint names it) of a choice."""
    named = choice.get("finish_reason")
    if named is None:
        named = choice.get("finish_details")  # OpenAI's first models with vision
    end = ends.end_of(named, endpoint.finish_reasons)
    native = choice.get("native_finish_reason")
    if end == ends.WHOLE and isinstance(native, str) and ends.end_of(native) in (ends.CUT, ends.FILTERED, ends.BROKEN):
        # OpenRouter adds the finish reason of the provider behind it, which is more precise.
        named, end = native, ends.end_of(native)
    empty = named is None or (isinstance(named, str) and not named.strip())
    return end, None if empty else ends.name_of(named)


def _text(value: Any) -> str | None:
    """Returns a text with a question mark for each half of a surrogate pair; None for anything else."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def too_long(reason: str | None) -> bool:
    """Whether a failed reply's reason is a request longer than the model's context, which no attempt can help."""
    return _TOO_LONG.search(reason or "") is not None
