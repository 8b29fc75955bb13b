"""Probabilities of the first token: read from any format without an error, and whole although cut off if asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import Endpoint
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.logprobs import first_token
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.reply import CUT_OFF, Reply
from tapir_ray.llm.client.target import Target
from tests.llm.endpoint import Choice, running

TOP = [{"token": "m", "logprob": -0.5, "bytes": [109]}, {"token": "M", "logprob": -1, "bytes": [77]}]
CHOICE = Choice("m", finish_reason="length", choice={"logprobs": {"content": [{"token": "m", "top_logprobs": TOP}]}})


def ask(choice: Choice, asked: int | None, cache: Path | None = None, **settings: Any) -> tuple[Reply, Any]:
    with running(lambda body, attempt: choice) as seen:

        async def main() -> Reply:
            store = None if cache is None else Cache(str(cache))
            endpoint = Endpoint(model="m", api_key_env=None, max_attempts=1, timeout_s=5.0, **settings)
            client = OpenAIClient(Target("judge", endpoint, seen.url), Meter(), cache=store)
            messages = [{"role": "user", "content": "m or M?"}]
            reply = await client.chat(messages, seed=1, kind="judge", top_logprobs=asked)
            if store is not None:
                await store.flush()
            await client.close()
            return reply

        return asyncio.run(main()), seen


def test_a_reply_of_one_token_is_whole_if_its_probabilities_were_asked_for(tmp_path: Path) -> None:
    reply, seen = ask(CHOICE, 5, tmp_path)
    assert (reply.status, reply.text, reply.logprobs) == ("ok", "m", {"m": -0.5, "M": -1.0})
    assert (seen.requests[0]["logprobs"], seen.requests[0]["top_logprobs"]) == (True, 5)
    again, seen = ask(CHOICE, 5, tmp_path)
    assert (again.status, again.logprobs, seen.requests) == ("ok", reply.logprobs, []), "the cache keeps both"


def test_a_cut_off_reply_stays_cut_off_if_nobody_asked_for_probabilities() -> None:
    """Else an endpoint whose `extra_body` always asks for them would lose the end of every long answer unseen."""
    for extra in ({}, {"logprobs": True, "top_logprobs": 2}):
        reply, _ = ask(CHOICE, None, extra_body=extra)
        assert (reply.status, reply.reason, reply.logprobs) == ("filtered", CUT_OFF, None)


def test_a_reply_without_probabilities_has_none() -> None:
    reply, _ = ask(Choice("m"), 5)
    assert (reply.status, reply.logprobs) == ("ok", None)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, None),
        ([], None),
        ({"content": None}, None),
        ({"content": [None]}, None),
        ({"content": [{"top_logprobs": {"m": -1}}]}, None),
        ({"content": [{"top_logprobs": [None, {"token": 1, "logprob": -1}, {"token": "m"}]}]}, None),
        (
            {"content": [{"top_logprobs": [{"token": "m", "logprob": True}, {"token": "a", "logprob": -2}]}]},
            {"a": -2.0},
        ),
        ({"content": [{"top_logprobs": [{"token": "m", "logprob": float("-inf")}]}]}, None),
        ({"tokens": ["m"], "top_logprobs": [{"m": -1}]}, None),
    ],
)
def test_another_format_gives_none_and_no_error(found: Any, expected: dict[str, float] | None) -> None:
    assert first_token({"logprobs": found}) == expected
