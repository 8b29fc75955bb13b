"""The client against a real HTTP endpoint: retries, the reply made of each response, and keys that stay hidden."""

from __future__ import annotations

import asyncio
import pickle
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.config import Endpoint, Limits, Price, Sampling
from tapir_ray.data.thoughts import split_thoughts
from tapir_ray.llm.budget.usage import Count, Lease, Meter
from tapir_ray.llm.client import client as client_module
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.client.request import request_body, worst_case
from tapir_ray.llm.client.target import Secret, Target
from tests.llm.endpoint import Answer, Choice, Fault, running

HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)


def ask(
    answer: Answer, key: str | None = None, times: int = 1, **settings: Any
) -> tuple[list[Reply], Any, dict[tuple[str, str], Count]]:
    """Returns replies to `times` concurrent requests, the endpoint's log, and the recorded usage."""
    with running(answer) as seen:
        endpoint = Endpoint(model="m", **{"timeout_s": 5.0, "max_attempts": 3, **settings})
        meter = Meter()

        async def main() -> list[Reply]:
            client = OpenAIClient(Target("teacher", endpoint, seen.url, Secret(key) if key else None), meter)
            replies = await asyncio.gather(*(client.chat(HELLO, seed=7, kind="respond") for _ in range(times)))
            await client.close()
            return replies

        return asyncio.run(main()), seen, meter.pending()


def test_a_good_reply_has_its_text_and_usage() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 2}}
    (reply,), seen, usage = ask(lambda body, n: Choice("one two three", usage=details), extra_body={"top_k": 5})
    assert (reply.text, reply.status, reply.reason, reply.model) == ("one two three", "ok", None, "m-2026")
    count = usage["teacher", "respond"]
    assert (count.requests, count.input_tokens, count.output_tokens, count.failed) == (1, 2, 3, 0)
    assert (count.cached_tokens, count.reasoning_tokens) == (1, 2)
    assert seen.requests[0]["seed"] == 7 and seen.requests[0]["top_k"] == 5
    assert seen.requests[0]["max_tokens"] == 1024 and "top_p" not in seen.requests[0]
    assert "Authorization" not in seen.headers[0]


def test_max_completion_tokens_is_sent_in_place_of_max_tokens() -> None:
    _, seen, _ = ask(lambda body, n: "x", max_completion_tokens=77, sampling=Sampling(top_p=0.5))
    assert seen.requests[0]["max_completion_tokens"] == 77 and "max_tokens" not in seen.requests[0]
    assert seen.requests[0]["top_p"] == 0.5


@pytest.mark.parametrize(
    "fault", [Fault(429), Fault(500), Fault(503), Fault(408), Fault(200, body="<html>busy</html>")], ids=str
)
def test_transient_errors_are_retried(fault: Fault) -> None:
    (reply,), seen, usage = ask(lambda body, n: fault if n < 2 else "fine")
    assert reply.text == "fine" and len(seen.requests) == 3
    assert usage["teacher", "respond"].requests == 3 and usage["teacher", "respond"].failed == 0


def test_transient_errors_fail_after_max_attempts() -> None:
    (reply,), seen, usage = ask(lambda body, n: Fault(500, "on fire"))
    assert reply.status == "failed" and reply.reason.startswith("InternalServerError: ") and "on fire" in reply.reason
    assert len(seen.requests) == 3 and usage["teacher", "respond"].failed == 1


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (Fault(400, "context too long", "context_length_exceeded"), "BadRequestError"),
        (Fault(401), "AuthenticationError"),
        (Fault(403), "PermissionDeniedError"),
        (Fault(404), "NotFoundError"),
        (Fault(429, "pay first", "insufficient_quota"), "RateLimitError"),
    ],
)
def test_permanent_errors_are_not_retried(fault: Fault, name: str) -> None:
    (reply,), seen, _ = ask(lambda body, n: fault)
    assert reply.status == "failed" and reply.reason.startswith(f"{name}: ") and fault.message in reply.reason
    assert len(seen.requests) == 1


def test_timeouts_and_broken_connections_are_retried() -> None:
    (reply,), seen, _ = ask(lambda body, n: Choice("late", delay_s=3.0 if n == 0 else 0.0), timeout_s=0.4)
    assert reply.text == "late" and len(seen.requests) == 2
    unreachable = OpenAIClient(Target("teacher", Endpoint(max_attempts=2), "http://127.0.0.1:9/v1"), Meter())
    reply = asyncio.run(unreachable.chat(HELLO, kind="respond"))
    assert reply.status == "failed" and "Cannot connect" in reply.reason


def test_retry_after_delays_the_request_and_those_around_it() -> None:
    began = time.monotonic()
    first = [True]

    def once(body: dict[str, Any], n: int) -> Fault | str:
        refuse, first[0] = first[0], False
        return Fault(429, headers={"retry-after": "1"}) if refuse else "fine"

    replies, seen, _ = ask(once, times=3, limits=Limits(in_flight=1))
    assert [reply.text for reply in replies] == ["fine"] * 3
    assert all(at - began >= 1.0 for at in seen.times[1:])


def test_requests_in_flight_are_bounded() -> None:
    replies, seen, _ = ask(lambda body, n: Choice("x", delay_s=0.05), times=20, limits=Limits(in_flight=4))
    assert len(replies) == 20 and seen.most_in_flight == 4


@pytest.mark.parametrize(
    ("choice", "status", "reason", "text"),
    [
        (Choice("half an ans", "length"), "filtered", "cut_off", "half an ans"),
        (Choice("", "content_filter"), "filtered", "refused", ""),
        (Choice(None, message={"refusal": "I will not"}), "filtered", "refused", ""),
        (Choice("  "), "filtered", "empty", "  "),
        (Choice("<think>so</think>\n\n42"), "ok", None, "42"),
        (Choice("so I add</think>\n\n42"), "ok", None, "42"),
        (Choice("so I add</think>", "length"), "failed", "unfinished_thinking", None),
        (Choice("<think>so and so", "length"), "failed", "unfinished_thinking", None),
        (Choice("", "length", {"reasoning_content": "so and so"}), "failed", "unfinished_thinking", None),
        (Choice("42", message={"reasoning": "so"}), "ok", None, "42"),
    ],
)
def test_a_response_becomes_a_reply_with_its_status(
    choice: Choice, status: str, reason: str | None, text: str | None
) -> None:
    (dropped,), _, _ = ask(lambda body, n: choice)
    assert (dropped.status, dropped.reason, dropped.text, dropped.reasoning) == (status, reason, text, None)
    (kept,), _, _ = ask(lambda body, n: choice, reasoning="keep")
    thinks = "so" in f"{choice.content} {choice.message}"
    assert (kept.reasoning is not None and kept.reasoning.startswith("so")) == thinks


def test_a_broken_off_reply_is_asked_again_and_is_no_answer() -> None:
    (reply,), seen, usage = ask(lambda body, n: Choice("half an", "error") if n < 2 else "whole")
    assert (reply.text, reply.status) == ("whole", "ok") and len(seen.requests) == 3
    assert usage["teacher", "respond"].output_tokens == 5, "broken off answers are paid for too"
    (reply,), seen, _ = ask(lambda body, n: Choice("half an", "insufficient_system_resource"))
    assert (reply.text, reply.status, len(seen.requests)) == (None, "failed", 3)
    assert reply.reason == "broken_off: finish_reason insufficient_system_resource"


def test_a_reply_with_an_unknown_end_is_asked_once_more_and_names_the_end() -> None:
    (reply,), seen, _ = ask(lambda body, n: Choice("half an", "wandered_off"), max_attempts=6)
    assert reply.status == "failed" and len(seen.requests) == 2
    assert reply.reason.startswith("unknown_end: finish_reason 'wandered_off'")
    assert 'finish_reasons: {"wandered_off": "stop"}' in reply.reason
    (reply,), _, _ = ask(lambda body, n: Choice("whole", "wandered_off"), finish_reasons={"wandered_off": "stop"})
    assert (reply.text, reply.status) == ("whole", "ok")


def test_a_rate_limit_in_a_200_is_retried() -> None:
    busy = Fault(200, body='{"error": {"code": 429, "message": "slow down"}}')
    (reply,), seen, usage = ask(lambda body, n: busy if n < 2 else "fine")
    assert reply.text == "fine" and len(seen.requests) == 3 and usage["teacher", "respond"].failed == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [("<html>busy</html>", "no JSON: '<html>busy"), ('data: {"choices": []}\n\ndata: [DONE]', "a stream")],
)
def test_a_body_that_is_not_json_is_named(body: str, reason: str) -> None:
    (reply,), seen, _ = ask(lambda request, n: Fault(200, body=body))
    assert reply.reason.startswith(f"BadReply: the endpoint answers with {reason}") and len(seen.requests) == 3


def test_a_long_request_has_the_price_of_its_tier() -> None:
    price = {"input": 1.0, "output": 1.0, "tiers": [{"above": 1, "input": 2.0, "output": 3.0}]}
    _, _, usage = ask(lambda body, n: "one two three four", price=price)
    assert usage["teacher", "respond"].cost(Price(**price)) == pytest.approx((2 * 2 + 4 * 3) / 1e6)


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation", "1301", "data_inspection_failed"])
def test_a_400_of_a_content_filter_is_a_refusal(code: str) -> None:
    (reply,), seen, usage = ask(lambda body, n: Fault(400, "filtered", code))
    assert (reply.status, reply.reason) == ("filtered", "refused") and len(seen.requests) == 1
    assert usage["teacher", "respond"].failed == 0


@pytest.mark.parametrize("code", ["account_blocked", "unsupported_language", "invalid_request_error"])
def test_an_error_of_the_account_or_the_request_is_no_refusal(code: str) -> None:
    (reply,), _, _ = ask(lambda body, n: Fault(403, "not yours", code))
    assert reply.status == "failed" and "not yours" in reply.reason


def test_the_key_is_sent_and_never_shown() -> None:
    (reply,), seen, _ = ask(lambda body, n: Fault(401, "the key sk-very-secret is bad"), key="sk-very-secret")
    assert seen.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert "secret" not in reply.reason and "***" in reply.reason
    target = pickle.loads(pickle.dumps(Target("teacher", Endpoint(), None, Secret("sk-very-secret"))))
    assert "secret" not in repr(target).replace("Secret", "") and target.key.reveal() == "sk-very-secret"


CODE = "re.sub('<think>.*?</think>', '', text)"


@pytest.mark.parametrize(
    ("content", "text", "thoughts"),
    [
        ("first I think…</think>\n\nThe answer is 4.", "The answer is 4.", "first I think…"),
        ("<think>b</think> a", "a", "b"),
        ("</think>a", "a", None),
        ("I close with </think> and then</think>a", "a", "I close with </think> and then"),
        ("<think>I close with </think> and then</think>a", "a", "I close with </think> and then"),
        ("<think>what is a <think> tag</think>a", "a", "what is a <think> tag"),
        ("a <think>b</think>", "a <think>b</think>", None),
        (CODE, CODE, None),
        (f"I strip it</think>{CODE}", CODE, "I strip it"),
        (f"<think>I strip it</think>\n{CODE}", CODE, "I strip it"),
        ("<think>b", None, "b"),
    ],
)
def test_thoughts_are_split_from_the_answer(content: str, text: str | None, thoughts: str | None) -> None:
    found, answer, complete = split_thoughts(content)
    assert (answer if complete else None, found) == (text, thoughts)


@given(text=st.text(max_size=60), limit=st.integers(1, 4096))
def test_the_worst_case_counts_bytes_and_the_limits_of_extra_body(text: str, limit: int) -> None:
    endpoint = Endpoint(model="m", extra_body={"max_tokens": 9000, "n": 2})
    messages = [{"role": "user", "content": text}]
    plain = worst_case(request_body(Endpoint(model="m"), messages, Sampling(max_tokens=limit), 1))
    assert plain[0] >= len(text.encode()) and plain[1] == limit
    assert worst_case(request_body(endpoint, messages, Sampling(max_tokens=limit), 1))[1] == 18_000


def test_a_request_that_may_be_paid_for_is_not_settled_as_free() -> None:
    settled: list[bool] = []

    class Watching(Meter):
        def record(self, role: str, count: Count, lease: Lease | None = None, known: bool = True) -> None:
            settled.append(known)

    def outcome(body: dict[str, Any], attempt: int) -> Choice | Fault:
        no_usage = {"prompt_tokens": 0, "completion_tokens": 0}
        answers = [Choice("x"), Choice("x", usage=no_usage), Fault(429), Choice("x", delay_s=3.0), Fault(200, body="?")]
        return answers[body["seed"]]

    async def main(url: str) -> None:
        client = OpenAIClient(Target("teacher", Endpoint(model="m", timeout_s=1.0, max_attempts=1), url), Watching())
        for number in range(5):
            await client.chat(HELLO, seed=number, kind="x")
        await client.close()

    with running(outcome) as seen:
        asyncio.run(main(seen.url))
    asyncio.run(main("http://127.0.0.1:9/v1"))
    assert settled == [True, False, True, False, False] + [True] * 5
