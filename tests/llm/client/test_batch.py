"""The batch API against the simulator's: few batches, half the price, and nothing submitted or paid for twice."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tapir_ray.config import Batch, Endpoint
from tapir_ray.data import schemas
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client import batch as batch_module
from tapir_ray.llm.client import client as client_module
from tapir_ray.llm.client.batch import BatchClient
from tapir_ray.llm.client.batch_lines import LineError
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.failures import may_be_paid
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.client.request import request_body
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.roles import Roles
from tapir_ray.simulator import Options, running
from tapir_ray.transforms.respond import respond
from tests.simulator.asking import user
from tests.transforms.asking import config_for, dataset, instruction


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(batch_module, "FIRST_BACKOFF_S", 0.01)


@contextmanager
def simulated(folder: Path, **options: Any) -> Iterator[tuple[str, Path]]:
    log = folder / "log.jsonl"
    with running(Options(log=str(log), **options)) as url:
        yield url, log


def endpoint(**values: Any) -> Endpoint:
    return Endpoint(engine="openai_batch", model="m", batch=Batch(**{"window_s": 0.2, "poll_s": 0.05, **values}))


def client(url: str, folder: Path, **values: Any) -> BatchClient:
    return BatchClient(Target("teacher", endpoint(**values), url), Meter(), str(folder / "batches"))


async def ask(one: BatchClient, numbers: Sequence[int], wait_s: float = 60.0) -> list[Reply]:
    """Returns replies to some requests; TimeoutError leaves the client as a killed process would."""
    asked = (one.chat(user(f"tom has {n} pens , finds 3 , loses 2 . how many pens now ?"), seed=n, kind="respond")
             for n in numbers)  # fmt: skip
    async with asyncio.timeout(wait_s):
        return list(await asyncio.gather(*asked))


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def batches(log: Path) -> list[int]:
    """Returns the numbers of requests answered in each batch, sorted."""
    return sorted(Counter(line["batch"] for line in lines(log)).values())


def test_waiting_calls_share_a_batch_and_a_full_batch_is_submitted_at_once(tmp_path: Path) -> None:
    with simulated(tmp_path) as (url, log):
        replies = asyncio.run(ask(client(url, tmp_path), range(10)))
        assert [reply.status for reply in replies] == ["ok"] * 10 and batches(log) == [10]
        assert [reply.text for reply in replies][:2] != [replies[0].text] * 2
        asyncio.run(ask(client(url, tmp_path / "other", size=4), range(20, 28)))
        assert batches(log) == [4, 4, 10]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_restart_waits_for_its_submitted_batch(recorded: bool, tmp_path: Path) -> None:
    """The process was killed while the batch was in progress, or between its creation and the record of its id."""
    with simulated(tmp_path, batch_s=3.0) as (url, log):
        with pytest.raises(TimeoutError):
            asyncio.run(ask(client(url, tmp_path), range(10), wait_s=2.5))
        (record,) = (tmp_path / "batches").glob("*.json")
        content = json.loads(record.read_text())
        assert content["batch"] and len(content["requests"]) == 10
        if not recorded:
            record.write_text(json.dumps({**content, "batch": None}))
        # The restart may ask other rows too, and group the same ones differently.
        replies = asyncio.run(ask(client(url, tmp_path), [9, 3, 12]))
        assert [reply.status for reply in replies] == ["ok"] * 3
    assert batches(log) == [1, 10]


def test_a_restart_before_the_batch_was_created_submits_it(tmp_path: Path) -> None:
    with simulated(tmp_path) as (url, log):
        first = client(url, tmp_path)
        asyncio.run(ask(first, range(3)))
        (record,) = (tmp_path / "batches").glob("*.json")
        record.write_text(json.dumps({**json.loads(record.read_text()), "name": "never-created", "batch": None}))
        replies = asyncio.run(ask(client(url, tmp_path), range(3)))
    assert [reply.status for reply in replies] == ["ok"] * 3 and batches(log) == [3, 3]


def test_a_batch_is_closed_by_its_bytes_and_by_its_count(tmp_path: Path) -> None:
    with simulated(tmp_path) as (url, log):
        replies = asyncio.run(ask(client(url, tmp_path, window_s=1.0, max_requests=4), range(10)))
        assert [reply.status for reply in replies] == ["ok"] * 10 and batches(log) == [2, 4, 4]
        question = user("tom has 100 pens , finds 3 , loses 2 . how many pens now ?")
        line = len(batch_module.line_of(32 * "0", request_body(endpoint(), question, endpoint().sampling, 100)))
        by_bytes = client(url, tmp_path / "bytes", window_s=1.0, max_bytes=3 * line + line // 2)
        replies = asyncio.run(ask(by_bytes, range(100, 110)))
        assert [reply.status for reply in replies] == ["ok"] * 10 and batches(log) == [1, 2, 3, 3, 3, 4, 4]


def test_a_request_too_large_for_any_batch_fails_its_row(tmp_path: Path) -> None:
    async def some(one: BatchClient) -> list[Reply]:
        long = one.chat(user("é" * 1000), seed=1, kind="respond")
        return list(await asyncio.gather(long, one.chat(user("add 2 and 3 ."), seed=2, kind="respond")))

    with simulated(tmp_path) as (url, log):
        long, short = asyncio.run(some(client(url, tmp_path, max_bytes=2000)))
        assert short.status == "ok" and batches(log) == [1]
    assert long.status == "failed" and long.reason is not None
    assert "request_too_large: it needs 2,2" in long.reason and "batch.max_bytes is 2,000" in long.reason


def test_a_transient_storage_error_loses_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated(tmp_path) as (url, log):
        one = client(url, tmp_path)
        write, calls = one._storage.write_json, itertools.count()

        def failing(name: str, value: Any) -> None:
            if next(calls) < 3:
                raise OSError("503 Slow Down")
            write(name, value)

        monkeypatch.setattr(one._storage, "write_json", failing)
        replies = asyncio.run(ask(one, range(5)))
        assert [reply.status for reply in replies] == ["ok"] * 5 and batches(log) == [5]


def test_a_batch_survives_an_outage_of_its_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outage is longer than a request would be retried. The batch is not submitted a second time."""
    with simulated(tmp_path) as (url, log):
        one = client(url, tmp_path)
        retrieve, calls = one._openai.batches.retrieve, itertools.count()

        async def away(*arguments: Any, **options: Any) -> Any:
            if next(calls) < 15:
                raise openai.APIConnectionError(request=httpx.Request("GET", url))
            return await retrieve(*arguments, **options)

        monkeypatch.setattr(one._openai.batches, "retrieve", away)
        monkeypatch.setattr(batch_module, "LONGEST_BACKOFF_S", 0.05)
        replies = asyncio.run(ask(one, range(5)))
        assert [reply.status for reply in replies] == ["ok"] * 5 and batches(log) == [5]
        assert next(calls) > 15


def test_a_batch_deleted_by_its_provider_is_submitted_again(tmp_path: Path) -> None:
    with simulated(tmp_path) as (url, log):
        one = client(url, tmp_path)
        asyncio.run(ask(one, range(3)))
        (record,) = (tmp_path / "batches").glob("*.json")
        record.write_text(json.dumps({**json.loads(record.read_text()), "batch": "batch-that-is-gone"}))
        replies = asyncio.run(ask(client(url, tmp_path), range(3)))
        assert [reply.status for reply in replies] == ["ok"] * 3 and batches(log) == [3, 3]


def test_a_rejected_reply_is_not_served_again_from_its_batch(tmp_path: Path) -> None:
    with simulated(tmp_path) as (url, log):
        one = BatchClient(
            Target("teacher", endpoint(), url), Meter(), str(tmp_path / "batches"), cache=Cache(str(tmp_path / "cache"))
        )
        replies = asyncio.run(ask(one, range(4)))
        one.reject(replies[2])
        again = BatchClient(Target("teacher", endpoint(), url), Meter(), str(tmp_path / "batches"), cache=None)
        asyncio.run(ask(again, range(4)))
        assert batches(log) == [1, 4]


def test_answers_of_an_expired_batch_are_kept(tmp_path: Path) -> None:
    with simulated(tmp_path, expire_batches=1) as (url, log):
        replies = asyncio.run(ask(client(url, tmp_path), range(10)))
    assert [reply.status for reply in replies] == ["ok"] * 10
    assert batches(log) == [5, 5] and {line["seed"] for line in lines(log)} == set(range(10))


def test_a_request_that_fails_in_its_batch_fails_alone(tmp_path: Path) -> None:
    async def one_is_bad() -> list[Reply]:
        one = client(url, tmp_path)
        good = one.chat(user("add 2 and 3 ."), seed=1, kind="respond")
        return list(await asyncio.gather(good, one.chat([], seed=2, kind="respond")))

    with simulated(tmp_path) as (url, _):
        good, bad = asyncio.run(one_is_bad())
        assert good.status == "ok" and bad.status == "failed"
        assert bad.reason is not None and "at least one message" in bad.reason
        submitted = set((tmp_path / "batches").glob("*.json"))
        asyncio.run(one_is_bad())
        assert len(set((tmp_path / "batches").glob("*.json")) - submitted) == 1, "the second try is a new request"


def test_a_request_unanswered_by_its_batch_was_not_paid_for() -> None:
    assert not may_be_paid(LineError("not answered by its batch", again=True))


def test_a_stage_needs_no_change_and_costs_half(ray_local: None, tmp_path: Path) -> None:
    rows = [instruction(f"tom has {n} pens , finds 3 , loses 2 . how many pens now ?") for n in range(40)]
    teacher = {"engine": "openai_batch", "price": {"output": 2e6}, "batch": {"window_s": 2.0, "poll_s": 0.1}}
    with simulated(tmp_path) as (url, log):
        config = config_for(url, teacher=teacher)
        with Roles(config, "batches", None, str(tmp_path / "run")) as roles:
            table = respond(dataset(rows, schemas.GENERATED_ROWS), config, roles, {}).take_all()
            usage = roles.usage()["teacher"]
    assert {row["status"] for row in table} == {"ok"} and len({row["instruction_id"] for row in table}) == 40
    assert usage["requests"] == 40 and usage["cost"] == pytest.approx(usage["output_tokens"])
    assert len(batches(log)) <= 3
