"""Replies in JSON by a schema: requested so, and requested in plain text of a server that refuses the format."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import Batch, Endpoint
from tapir_ray.llm.budget.usage import Count, Meter
from tapir_ray.llm.client import batch as batch_module
from tapir_ray.llm.client import client as client_module
from tapir_ray.llm.client.batch import BatchClient
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.failures import refuses_format
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.client.request import request_body, request_key, worst_case
from tapir_ray.llm.client.target import Target
from tapir_ray.simulator import Options
from tapir_ray.simulator import running as simulated
from tapir_ray.transforms.scores_json import scores_format
from tapir_ray.transforms.verdict import parse_scores
from tests.llm.endpoint import Answer, Fault, running
from tests.simulator.asking import prompt

HELLO = [{"role": "user", "content": "hello there"}]
FORMAT = scores_format(1)
MATH = "tom has 7 pens , finds 3 , loses 2 . how many pens now ?"


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(batch_module, "FIRST_BACKOFF_S", 0.01)


def ask(
    answer: Answer, seeds: Sequence[int] = (1,), or_plain: bool = True, cache: Path | None = None, **settings: Any
) -> tuple[list[Reply], Any, Count]:
    """Returns the replies to requests with a format in order, the endpoint's requests, and the counted usage."""
    with running(answer) as seen:
        meter = Meter()

        async def main() -> list[Reply]:
            store = None if cache is None else Cache(str(cache))
            endpoint = Endpoint(model="m", timeout_s=5.0, max_attempts=2, **settings)
            client = OpenAIClient(Target("judge", endpoint, seen.url), meter, cache=store)
            replies = [
                await client.chat(HELLO, seed=seed, kind="judge", response_format=FORMAT, or_plain=or_plain)
                for seed in seeds
            ]
            await client.close()
            return replies

        return asyncio.run(main()), seen, meter.pending()["judge", "judge"]


def refusing(status: int, message: str) -> Answer:
    return lambda body, n: Fault(status, message) if "response_format" in body else "Score: 7"


def test_the_format_is_sent_and_is_another_request_to_the_cache() -> None:
    (reply,), seen, _ = ask(lambda body, n: '{"score": 7}')
    assert seen.requests[0]["response_format"] == FORMAT and reply.text == '{"score": 7}'
    endpoint = Endpoint(model="m")
    plain, formatted = (request_body(endpoint, HELLO, endpoint.sampling, 1, one) for one in (None, FORMAT))
    assert request_key("", plain) != request_key("", formatted)
    assert worst_case(formatted)[0] > worst_case(plain)[0] + 100, "the schema is a paid part of the prompt"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."),
        (400, "invalid value: `json_schema`, supported values are: `json_object` and `text`"),
        (400, "Unsupported parameter"),
        (404, "no endpoints found that support structured outputs"),
        (422, "body.response_format: Extra inputs are not permitted"),
        (501, "grammar is not implemented"),
        (400, "This model does not support response format `json_schema`"),
        (404, "No endpoints found that can handle the requested parameters."),
        (400, "json_validate_failed: Failed to generate JSON. Please adjust your prompt."),
    ],
)
def test_an_endpoint_that_refuses_the_format_gets_plain_requests_from_then_on(status: int, message: str) -> None:
    replies, seen, count = ask(refusing(status, message), seeds=(1, 2, 3))
    assert [reply.text for reply in replies] == ["Score: 7"] * 3
    assert ["response_format" in body for body in seen.requests] == [True, False, False, False]
    assert (count.requests, count.failed) == (4, 0)


def test_a_refusal_fails_the_request_if_plain_text_is_not_allowed() -> None:
    (reply,), seen, _ = ask(refusing(400, "response_format is not supported"), or_plain=False)
    assert reply.status == "failed" and "response_format" in str(reply.reason) and len(seen.requests) == 1


def test_other_errors_keep_the_format() -> None:
    replies, seen, count = ask(lambda body, n: Fault(400, "prompt too long") if body["seed"] == 1 else "x", (1, 2))
    assert [reply.status for reply in replies] == ["failed", "ok"] and count.failed == 1
    assert all("response_format" in body for body in seen.requests)
    replies, seen, _ = ask(lambda body, n: Fault(400, "unknown parameter: top_k") if body["seed"] == 1 else "x", (1, 2))
    assert [reply.status for reply in replies] == ["failed", "ok"]
    assert ["response_format" in body for body in seen.requests] == [True, False, True], "the format was not at fault"


def test_a_format_of_the_user_replaces_the_schema() -> None:
    own = {"response_format": {"type": "json_object"}}
    (reply,), seen, _ = ask(lambda body, n: Fault(400, "no response_format"), extra_body=own)
    assert [body["response_format"] for body in seen.requests] == [own["response_format"]] and reply.status == "failed"


def test_a_plain_reply_is_cached_for_the_formatted_request(tmp_path: Path) -> None:
    _, seen, _ = ask(refusing(400, "response_format"), seeds=(1, 1), cache=tmp_path)
    assert len(seen.requests) == 2, "the second reply is served from the cache"


def test_an_error_without_a_request_refuses_no_format() -> None:
    assert not refuses_format(TimeoutError("response_format"))


@pytest.mark.parametrize("refuse", [False, True])
def test_batches_send_the_format_and_fall_back_too(tmp_path: Path, refuse: bool) -> None:
    endpoint = Endpoint(engine="openai_batch", model="m", batch=Batch(window_s=0.2, poll_s=0.05))
    messages = prompt("judge_pointwise", instruction=MATH, answer="8")

    async def main(url: str) -> list[Reply]:
        client = BatchClient(Target("judge", endpoint, url), Meter(), str(tmp_path / "batches"))
        asked = (client.chat(messages, seed=seed, kind="judge", response_format=FORMAT) for seed in range(4))
        return list(await asyncio.gather(*asked))

    with simulated(Options(refuse_response_format=refuse)) as url:
        replies = asyncio.run(main(url))
    assert [parse_scores(reply.text or "", 1) for reply in replies] == [(10.0,)] * 4
    assert all(str(reply.text).startswith("{") is not refuse for reply in replies)
