"""One role's requests over the OpenAI protocol: retries, limits, usage, and a reply that says what became of it.

    client = Client(Target("teacher", endpoint, base_url, key), meter, asyncio.Semaphore(64))
    reply = await client.chat([{"role": "user", "content": "…"}], seed=7, kind="respond")

`extra_body` is merged over the request, so it can also replace a parameter (a reasoning model that accepts no
temperature but 1: `extra_body: {temperature: 1}`).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai

from tapir_ray.config import Endpoint, Sampling
from tapir_ray.llm.usage import Count, Meter
from tapir_ray.records import BUDGET_USED_UP, FAILED, FILTERED, OK, Message

CUT_OFF, REFUSED, EMPTY = "cut_off", "refused", "empty"
UNFINISHED_THINKING = "unfinished_thinking"
"""Reasons of a reply without a usable text."""

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
CHARS_PER_TOKEN = 3
"""For the worst case a request is leased for, before its real count is known; low, so that it is rather too many."""

_POLICY_CODES = {"content_filter", "content_policy_violation"}
_THINK_TAG = re.compile(r"</?think>")


class Secret:
    """A key that travels to workers and prints as stars."""

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True)
class Target:
    """Where a role's requests go. `key` None sends no key."""

    role: str
    endpoint: Endpoint
    base_url: str | None
    key: Secret | None = None
    group: str = ""
    """Roles of one group share limits and requests in flight."""


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


class BadReply(Exception):
    """An HTTP success that is not a chat completion."""


@dataclass
class Pause:
    """Until when a role waits because its endpoint said so (`Retry-After`); shared by its requests in a worker."""

    until: float = field(default=0.0)

    async def over(self) -> None:
        while (left := self.until - time.monotonic()) > 0:
            await asyncio.sleep(left)


class Client:
    """Chat requests of one role. Belongs to the event loop it is first used in."""

    def __init__(self, target: Target, meter: Meter, in_flight: asyncio.Semaphore | None = None) -> None:
        self.target = target
        self._meter = meter
        self._in_flight = in_flight or asyncio.Semaphore(target.endpoint.limits.in_flight)
        self._pause = Pause()
        limits = target.endpoint.limits
        self._limited = limits.requests_per_minute is not None or limits.tokens_per_minute is not None
        self._openai = connect(target)

    async def chat(
        self, messages: Sequence[Message], *, sampling: Sampling | None = None, seed: int | None = None, kind: str
    ) -> Reply:
        """Ask once, with as many attempts as the endpoint allows; never raises for what an endpoint does.

        429, 5xx, timeouts and broken connections are tried again after an exponential, jittered pause of at least
        `Retry-After`; every other error is permanent. `kind` is the kind of request in the usage.
        """
        endpoint = self.target.endpoint
        body = request_body(endpoint, messages, sampling or endpoint.sampling, seed)
        worst = sum(len(message["content"]) for message in messages) // CHARS_PER_TOKEN + _limit(body)
        for attempt in range(1, endpoint.max_attempts + 1):
            async with self._in_flight:
                await self._pause.over()
                if not await self._meter.lease(self.target.role, worst):
                    return Reply(None, status=FAILED, reason=BUDGET_USED_UP)
                try:
                    async with asyncio.timeout(endpoint.timeout_s):
                        completion = await self._openai.chat.completions.create(
                            **body, extra_headers=headers(self.target)
                        )
                    reply, count = understand(completion, endpoint.reasoning, kind)
                except (openai.OpenAIError, TimeoutError, BadReply, json.JSONDecodeError) as error:
                    reply, count = self._failure(error), Count(kind, requests=1)
                    retry, pause = _retry(error)
                else:
                    retry, pause = False, None
            last = not retry or attempt == endpoint.max_attempts
            failed = int(last and reply.status == FAILED)
            self._meter.record(self.target.role, count + Count(kind, reserved_tokens=worst, failed=failed))
            if last:
                return reply
            if pause is not None and not self._limited:
                self._pause.until = max(self._pause.until, time.monotonic() + pause)
            backoff = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (attempt - 1))
            await asyncio.sleep(max(backoff * random.uniform(0.5, 1.0), pause or 0.0))
        raise AssertionError("the last attempt returns")

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()

    def _failure(self, error: BaseException) -> Reply:
        if isinstance(error, openai.APIStatusError) and error.code in _POLICY_CODES:
            return Reply(None, status=FILTERED, reason=REFUSED, finish_reason="content_filter")
        if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
            # The aiohttp transport reports a refused connection as a timeout; its cause says what happened.
            error = error.__cause__
        message = " ".join(str(error).split()) or f"no reply within {self.target.endpoint.timeout_s:g} s"
        if self.target.key is not None:
            message = message.replace(self.target.key.reveal(), "***")
        return Reply(None, status=FAILED, reason=f"{type(error).__name__}: {message[:500]}")


def connect(target: Target) -> openai.AsyncOpenAI:
    """A client of the target's endpoint on the aiohttp transport, without retries of its own.

    Proxies of the environment are not used for loopback.
    """
    loopback = urlsplit(target.base_url or "").hostname in ("127.0.0.1", "localhost", "::1")
    return openai.AsyncOpenAI(
        api_key="-" if target.key is None else target.key.reveal(),
        base_url=target.base_url,
        timeout=target.endpoint.timeout_s,
        max_retries=0,
        http_client=openai.DefaultAioHttpClient(trust_env=not loopback),
    )


def headers(target: Target) -> dict[str, Any]:
    """`extra_headers` of a request: without a key no Authorization header is sent."""
    return {"Authorization": openai.Omit()} if target.key is None else {}


def request_body(
    endpoint: Endpoint, messages: Sequence[Message], sampling: Sampling, seed: int | None
) -> dict[str, Any]:
    """The arguments of `chat.completions.create`; parameters at the protocol's own default are left out."""
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [{"role": message["role"], "content": message["content"]} for message in messages],
        "temperature": sampling.temperature,
    }
    if endpoint.max_completion_tokens is None:
        body["max_tokens"] = sampling.max_tokens
    else:
        body["max_completion_tokens"] = endpoint.max_completion_tokens
    if sampling.top_p < 1.0:
        body["top_p"] = sampling.top_p
    if seed is not None:
        body["seed"] = seed
    if endpoint.extra_body:
        body["extra_body"] = endpoint.extra_body
    return body


def understand(completion: Any, reasoning: str, kind: str) -> tuple[Reply, Count]:
    """What a chat completion says and what it used; reasoning is kept only for `keep`. Raises BadReply."""
    if not getattr(completion, "choices", None):
        raise BadReply(f"not a chat completion: {str(completion)[:200]}")
    choice, usage = completion.choices[0], completion.usage
    message = choice.message
    count = Count(kind, requests=1)
    if usage is not None:
        prompt, output = usage.prompt_tokens_details, usage.completion_tokens_details
        count = Count(
            kind,
            requests=1,
            input_tokens=usage.prompt_tokens or 0,
            cached_tokens=(prompt and prompt.cached_tokens) or 0,
            output_tokens=usage.completion_tokens or 0,
            reasoning_tokens=(output and output.reasoning_tokens) or 0,
        )
    text, thoughts = split_thinking(message.content or "")
    thoughts = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or thoughts
    status, reason = OK, None
    if text is None or (not text.strip() and thoughts and choice.finish_reason == "length"):
        status, reason, text = FAILED, UNFINISHED_THINKING, None
    elif choice.finish_reason == "content_filter" or message.refusal:
        status, reason = FILTERED, REFUSED
    elif choice.finish_reason == "length":
        status, reason = FILTERED, CUT_OFF
    elif not text.strip():
        status, reason = FILTERED, EMPTY
    reply = Reply(
        text=text,
        reasoning=thoughts if reasoning == "keep" else None,
        finish_reason=choice.finish_reason,
        model=completion.model,
        input_tokens=count.input_tokens,
        output_tokens=count.output_tokens,
        status=status,
        reason=reason,
    )
    return reply, count


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


def _limit(body: dict[str, Any]) -> int:
    return int(body.get("max_tokens") or body["max_completion_tokens"])


def _retry(error: Exception) -> tuple[bool, float | None]:
    """Whether to try again, and the seconds the endpoint asked to wait."""
    if isinstance(error, openai.APIStatusError):
        again = error.status_code in (408, 409, 429) or error.status_code >= 500
        return again and error.code != "insufficient_quota", _retry_after(error)
    transient = (
        openai.APIConnectionError,
        openai.APIResponseValidationError,
        TimeoutError,
        BadReply,
        json.JSONDecodeError,
    )
    return isinstance(error, transient), None


def _retry_after(error: openai.APIStatusError) -> float | None:
    received = error.response.headers
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = received.get(name)
        if value is None:
            continue
        if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
            return float(value) / unit
        when = email.utils.parsedate_tz(value)
        if when is not None:
            return max(0.0, email.utils.mktime_tz(when) - time.time())
    return None
