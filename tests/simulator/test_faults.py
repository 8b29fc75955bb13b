"""Injected faults: every kind is drawn, logged, drawn again in the same places, and answered after retries."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest

from tapir_ray.config import Endpoint, Limits
from tapir_ray.errors import InputError
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client import client as client_module
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.client.target import Target
from tapir_ray.simulator import Options, running
from tapir_ray.simulator.faults import FAULTS, Faults, Window
from tests.simulator.asking import prompt, request, user

JUDGING = prompt("judge_pairwise", instruction="add 2 and 3 .", answer_1="5", answer_2="6")


def drawn(error_rate: float, seed: int = 0, times: int = 1) -> list[str | None]:
    """Returns the faults of 400 judge requests, each asked `times` times."""
    faults = Faults(error_rate, seed)
    return [faults.draw(request(JUDGING, seed=number)) for _ in range(times) for number in range(400)]


def test_every_kind_is_drawn_at_its_rate_and_in_the_same_places() -> None:
    first = drawn(0.5)
    counts = Counter(first)
    assert set(counts) == {None, *FAULTS} and 150 < counts[None] < 250
    assert drawn(0.5) == first and drawn(0.5, seed=1) != first and set(drawn(0.0)) == {None}
    again = drawn(0.5, times=2)[400:]
    assert again != first and 150 < Counter(again)[None] < 250


def test_only_a_judge_gives_unparseable_scores() -> None:
    faults = Faults(1.0, 0)
    kinds = {faults.draw(request(user("add 2 and 3 ."), seed=number)) for number in range(200)}
    assert kinds == set(FAULTS) - {"unparseable_scores"}


def test_the_window_slides() -> None:
    window = Window(3)
    assert [window.admit(at) for at in (0.0, 10.0, 20.0)] == [0.0] * 3
    assert window.admit(30.0) == pytest.approx(30.0)
    assert window.admit(60.5) == 0.0 and window.admit(61.0) == pytest.approx(9.0)


def test_a_rate_must_be_a_share() -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        Faults(1.5, 0)


def test_the_client_gets_an_answer_after_every_transient_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The log names the fault of every request."""
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    log = tmp_path / "log.jsonl"
    with running(Options(error_rate=0.5, hang_s=5.0, log=str(log))) as url:
        limits = Limits(in_flight=32, requests_per_minute=60_000)
        endpoint = Endpoint(model="m", timeout_s=4.0, max_attempts=12, limits=limits)

        async def main() -> list[Reply]:
            client = OpenAIClient(Target("judge", endpoint, url), Meter())
            replies = await asyncio.gather(*(client.chat(JUDGING, seed=n, kind="judge") for n in range(100)))
            await client.close()
            return replies

        replies = asyncio.run(main())
    assert {(reply.status, reply.reason) for reply in replies} == {
        ("ok", None),
        ("filtered", "refused"),
        ("filtered", "empty"),
    }
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line.get("fault") for line in lines} == {None, *FAULTS}
    answered = [line["seed"] for line in lines if line.get("fault") in (None, "refusal", "empty", "unparseable_scores")]
    assert sorted(answered) == list(range(100))


def test_a_request_over_the_limit_is_refused_and_logged(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with running(Options(max_requests_per_minute=5, log=str(log))) as url:
        client = openai.OpenAI(base_url=url, api_key="any", max_retries=0)
        for _ in range(5):
            client.chat.completions.create(model="m", messages=user("add 2 and 3 ."))
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="m", messages=user("add 2 and 3 ."))
    assert 50 < int(refused.value.response.headers["retry-after"]) <= 60
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line.get("fault") for line in lines] == [None] * 5 + ["over_limit"]
