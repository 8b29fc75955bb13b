"""The reply cache: which replies it serves again, which never, and how it survives torn files; it never holds a key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import ray.data

from tapir_ray.config import Endpoint, Limits
from tapir_ray.data import schemas
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client import cache as cache_module
from tapir_ray.llm.client.cache import SUFFIX, Cache
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.client.request import request_key
from tapir_ray.llm.client.target import Secret, Target
from tapir_ray.llm.prompts import Prompts
from tapir_ray.llm.roles import Roles
from tapir_ray.transforms.judge_question import ask as ask_judge
from tapir_ray.transforms.judge_question import plain_question
from tapir_ray.transforms.judge_request import NotJudged
from tapir_ray.transforms.label import LabelRow, label
from tests.llm.endpoint import Answer, Choice, running
from tests.llm.endpoint import Endpoint as Seen
from tests.transforms.asking import config_for, dataset, instruction

HELLO = [{"role": "user", "content": "hello there"}]
Calls = Callable[[OpenAIClient], Awaitable[Any]]


def ask(seen: Seen, folder: Path, calls: Calls, key: str | None = None) -> tuple[Any, Meter]:
    """Returns the result of `calls` with a client and a cache of the folder, as a worker of its own would have them."""
    endpoint = Endpoint(model="m", max_attempts=2, limits=Limits(requests_per_minute=60_000))
    meter = Meter()

    async def main() -> Any:
        cache = Cache(str(folder))
        client = OpenAIClient(Target("judge", endpoint, seen.url, Secret(key) if key else None), meter, cache=cache)
        result = await calls(client)
        await cache.flush()
        await client.close()
        return result

    return asyncio.run(main()), meter


def chat(seed: int | None = 7, **values: Any) -> Calls:
    return lambda client: client.chat(values.get("messages", HELLO), seed=seed, kind="judge")


def test_another_worker_is_served_the_paid_reply(tmp_path: Path) -> None:
    with running(lambda body, n: Choice("fine ✓\u2028 so", usage={"completion_tokens": 9})) as seen:
        first, _ = ask(seen, tmp_path, chat(), key="sk-very-secret")
        again, meter = ask(seen, tmp_path, chat())
        assert again == first and again.text == "fine ✓\u2028 so" and len(seen.requests) == 1
        count = meter.pending()["judge", "judge"]
        assert (count.requests, count.cached_requests, count.input_tokens, count.output_tokens) == (0, 1, 0, 0)
        ask(seen, tmp_path, chat(seed=8))
        ask(seen, tmp_path, chat(messages=[{"role": "user", "content": "hello  there"}]))
        assert len(seen.requests) == 3
    for file in tmp_path.iterdir():
        assert file.name.endswith(SUFFIX) and b"secret" not in file.read_bytes()


def test_a_request_without_a_seed_is_sent_again_at_a_temperature(tmp_path: Path) -> None:
    with running(lambda body, n: "x") as seen:
        for temperature, asked in ((0.7, 2), (0.0, 3)):
            sampling = Endpoint().sampling.model_copy(update={"temperature": temperature})
            for _ in range(2):
                ask(seen, tmp_path, lambda client, s=sampling: client.chat(HELLO, sampling=s, kind="x"))
            assert len(seen.requests) == asked


@pytest.mark.parametrize("choice", [Choice("half", "length"), Choice(""), Choice("", "content_filter")], ids=str)
def test_a_reply_without_a_usable_text_is_not_served_again(choice: Choice, tmp_path: Path) -> None:
    with running(lambda body, n: choice if n == 0 else "fine") as seen:
        first, _ = ask(seen, tmp_path, chat())
        assert first.status == "filtered" and ask(seen, tmp_path, chat())[0].text == "fine"


def test_unparseable_scores_are_not_served_again(tmp_path: Path) -> None:
    settings = config_for("http://127.0.0.1:9/v1").judge

    async def scores(client: OpenAIClient) -> Any:
        try:
            return (await ask_judge(client, plain_question("which?", 2), settings, ("row",))).scores
        except NotJudged as error:
            return error.reason

    with running(lambda body, n: "no idea" if n == 0 else f"Scores: {n} 2") as seen:
        assert ask(seen, tmp_path, scores)[0] == "unparseable_scores" and len(seen.requests) == 3
        assert ask(seen, tmp_path, scores)[0] == (1.0, 2.0) and len(seen.requests) == 4
        assert ask(seen, tmp_path, scores)[0] == (1.0, 2.0) and len(seen.requests) == 4


def test_an_unknown_label_is_not_served_again(tmp_path: Path) -> None:
    row = LabelRow(Prompts(), ("Math", "Code"), 1)

    async def labelled(client: OpenAIClient) -> Any:
        return await row({"teacher": client}, {**instruction("1 + 1"), "task": None})

    with running(lambda body, n: "sums" if n == 0 else "Math") as seen:
        assert ask(seen, tmp_path, labelled)[0]["status"] == "failed"
        assert ask(seen, tmp_path, labelled)[0]["task"] == "Math"


def test_equal_requests_in_flight_are_sent_once(tmp_path: Path) -> None:
    async def many(client: OpenAIClient) -> Any:
        return await asyncio.gather(*(client.chat(HELLO, seed=1, kind="judge") for _ in range(20)))

    with running(lambda body, n: "x", latency_s=0.1) as seen:
        replies, meter = ask(seen, tmp_path, many)
    assert [reply.text for reply in replies] == ["x"] * 20 and len(seen.requests) == 1
    count = meter.pending()["judge", "judge"]
    assert (count.requests, count.cached_requests) == (1, 19)


def stored(cache: Cache, keys: list[str]) -> list[str | None]:
    async def refuse() -> Reply:
        return Reply(None, status="failed")

    async def main() -> list[str | None]:
        return [(await cache.answer(key, refuse))[0].text for key in keys]

    return asyncio.run(main())


def test_torn_segments_are_skipped_and_large_ones_read_by_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [request_key("", {"n": number}) for number in range(600)]

    async def fill(cache: Cache) -> None:
        async def paid(number: int) -> Reply:
            return Reply(f"text {number} ü")

        for number, key in enumerate(keys):
            await cache.answer(key, lambda n=number: paid(n))
            await asyncio.sleep(0)
        assert (await cache.answer(keys[0], lambda: paid(-1))) == (Reply("text 0 ü"), True)
        await cache.flush()
        assert (await cache.answer(keys[1], lambda: paid(-1))) == (Reply("text 1 ü"), True)

    asyncio.run(fill(Cache(str(tmp_path))))
    assert stored(Cache(str(tmp_path)), keys) == [f"text {number} ü" for number in range(600)]
    monkeypatch.setattr(cache_module, "HELD_BYTES", 1000)
    assert stored(Cache(str(tmp_path)), keys) == [f"text {number} ü" for number in range(600)]
    segment = max(tmp_path.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_size)
    segment.write_bytes(segment.read_bytes()[:-20])
    (tmp_path / f"0{SUFFIX}").write_bytes(b"\x00\xff\nnot a line\n" + keys[0].encode() + b"\t{broken\n")
    assert stored(Cache(str(tmp_path)), keys).count(None) == 1
    (tmp_path / f"9{SUFFIX}").write_bytes(keys[5].encode() + b"\t{broken\n")
    assert stored(Cache(str(tmp_path)), keys).count(None) == 2


@pytest.mark.slow
def test_a_second_run_over_ray_pays_nothing(ray_local: None, tmp_path: Path) -> None:
    rows = [instruction(f"q{number}") for number in range(100)]
    answer: Answer = lambda body, n: "Math"  # noqa: E731
    with running(answer) as seen:
        for attempt in range(2):
            config = config_for(seen.url, resources={"request_workers": 2})
            with Roles(config, f"cache-{attempt}", None, str(tmp_path)) as roles:
                unlabelled: ray.data.Dataset = dataset(rows, schemas.INSTRUCTIONS)
                table = label(unlabelled, config, roles, ["Math", "Code"]).take_all()
                usage = roles.usage()["teacher"]
            assert {row["task"] for row in table} == {"Math"} and len(table) == 100
            assert (usage["requests"], usage["cached_requests"]) == (100, 100 * attempt), (
                "usage is that of all attempts"
            )
        off = config_for(seen.url, cache={"enabled": False})
        with Roles(off, "cache-off", None, str(tmp_path)) as roles:
            label(dataset(rows[:5], schemas.INSTRUCTIONS), off, roles, ["Math"]).take_all()
    assert len(seen.requests) == 105
