"""Roles as stages of Ray Data over real HTTP: one row out for each row in, streaming, shared limits, checks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data

from tapir_ray.data import schemas
from tapir_ray.errors import InputError
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.roles import Roles, block_rows_of
from tapir_ray.transforms.answer import student_answer
from tests.llm.endpoint import Choice, Fault, running
from tests.transforms.asking import config_for, dataset, instruction, opened

ECHO = pa.schema([("instruction_id", pa.string()), ("reply", pa.string()), ("seconds", pa.float64()),
                  ("status", pa.string()), ("reason", pa.string())])  # fmt: skip


async def echo(clients: Mapping[str, Client], row: Row) -> Row:
    """Asks teacher and judge; raises for one row and breaks the schema in another."""
    text = row["messages"][0]["content"]
    if text == "raise":
        raise ValueError("a bad row")
    if text == "misfit":
        return {**row, "seconds": "not a number"}
    reply = await clients["teacher"].chat(row["messages"], kind="respond")
    await clients["judge"].chat(row["messages"], kind="judge")
    return {**row, "reply": reply.text, "seconds": time.time(), "status": reply.status, "reason": reply.reason}


def test_every_row_in_gives_one_row_out_whatever_fails(ray_local: None) -> None:
    rows = [instruction(f"q{number}") for number in range(100)] + [instruction("raise"), instruction("misfit")]
    with running(lambda body, n: body["messages"][0]["content"].upper(), latency_s=0.02) as seen:
        config = config_for(
            seen.url, teacher={"limits": {"in_flight": 8}, "price": {"input": 1e6}}, resources={"request_workers": 2}
        )
        with opened(config) as roles:
            table = roles.ask(dataset(rows).repartition(3), echo, ECHO).take_all()
            usage = roles.usage()
        assert roles.usage() == usage
    by_id = {row["instruction_id"]: row for row in table}
    assert len(by_id) == len(table) == 102 and list(table[0]) == ECHO.names
    assert by_id[rows[7]["instruction_id"]]["reply"] == "Q7"
    assert by_id[rows[100]["instruction_id"]]["reason"] == "ValueError: a bad row"
    assert by_id[rows[101]["instruction_id"]]["reason"].startswith("ArrowInvalid")
    assert seen.most_in_flight <= 8
    for role in ("teacher", "judge"):
        assert usage[role]["requests"] == 100 and usage[role]["output_tokens"] == 100 and usage[role]["cost"] == 100


async def seeded(clients: Mapping[str, Client], row: Row) -> Row:
    reply = await clients["teacher"].chat(row["messages"], seed=1, kind="respond")
    return {**row, "reply": reply.text, "status": reply.status, "reason": reply.reason}


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_replies_in_a_folder_of_their_own_are_served_until_they_are_deleted(
    ray_local: None, tmp_path: Path, shared: bool
) -> None:
    rows = [instruction(f"q{number}") for number in range(5)]
    cache = {"dir": str(tmp_path / "shared")} if shared else {}
    with running(lambda body, n: "x") as seen:
        config = config_for(seen.url, cache=cache)
        with Roles(config, f"apart-{shared}", folder=str(tmp_path)) as roles:
            with roles.replies.kept_apart("labelled"):
                for _ in range(2):
                    roles.ask(dataset(rows), seeded, ECHO).take_all()
                assert len(seen.requests) == 5
                folder = tmp_path / ("shared" if shared else "cache/labelled")
                assert [path.suffix for path in folder.iterdir()] == [".replies"] * len(list(folder.iterdir())) != []
                roles.replies.forget()
                assert bool(list(folder.iterdir())) == shared, "the user's folder stays"
            roles.replies.forget()
            roles.ask(dataset(rows), seeded, ECHO).take_all()
            assert len(seen.requests) == (5 if shared else 10)
            assert bool(list(folder.iterdir())) == shared
            assert (tmp_path / "cache").exists() != shared


@pytest.mark.slow
def test_a_slow_row_holds_up_no_other_block(ray_local: None) -> None:
    """Neither other rows of the stage nor the next stage wait for it."""
    rows = [instruction(f"q{number}") for number in range(64)]

    def one_is_slow(body: dict[str, Any], attempt: int) -> Choice:
        return Choice("x", delay_s=4.0 if body["messages"][0]["content"] == "q3" else 0.0)

    with running(one_is_slow) as seen:
        config = config_for(seen.url, teacher={"limits": {"in_flight": 8}})
        with opened(config) as roles:
            answered = roles.ask(dataset(rows), echo, ECHO)
            arrivals = [(row["instruction_id"], time.time()) for row in answered.iter_rows()]
    times = sorted(at for _, at in arrivals)
    assert len(arrivals) == 64 and times[-1] - times[0] > 2.5
    assert times[50] - times[0] < 2.0


@pytest.mark.parametrize(
    ("in_flight", "workers", "rows"), [(1, 1, 1), (32, 1, 8), (64, 1, 16), (512, 1, 32), (4096, 1, 256), (256, 16, 64)]
)
def test_blocks_grow_with_the_requests_in_flight(in_flight: int, workers: int, rows: int) -> None:
    assert block_rows_of(in_flight, workers) == rows


def test_the_rows_of_one_file_are_in_flight_together(ray_local: None) -> None:
    """A stage of Ray Data would read them as a single block, of which a worker asks only a few rows at a time."""
    rows = [instruction(f"q{number}") for number in range(64)]
    with running(lambda body, n: "x", latency_s=1.0) as seen:
        limits = {"in_flight": 32, "requests_per_minute": 10**6}
        config = config_for(seen.url, teacher={"limits": limits})
        read = dataset(rows).map_batches(as_it_is, batch_format="pyarrow", num_cpus=config.resources.transform_cpus)
        with opened(config) as roles:
            assert len(roles.ask(read, seeded, ECHO).take_all()) == 64
    assert seen.most_in_flight > 16


def as_it_is(batch: pa.Table) -> pa.Table:
    return batch


def test_limits_hold_over_all_workers(ray_local: None) -> None:
    rows = [instruction(f"q{number}") for number in range(20)]
    with running(lambda body, n: "x") as seen:
        limits = {"requests_per_minute": 600, "in_flight": 16}
        config = config_for(seen.url, teacher={"limits": limits}, resources={"request_workers": 2})
        with opened(config) as roles:
            assert roles.ask(dataset(rows), echo, ECHO).count() == 20
    # 40 requests at 10 a second; the first second's share is sent at once.
    assert max(seen.times) - min(seen.times) > 2.5
    for begin in seen.times:
        # At most 20 are granted; on a busy machine some of them arrive together.
        assert sum(begin <= at < begin + 1 for at in seen.times) <= 30


def test_an_exhausted_budget_sends_no_more_requests(ray_local: None) -> None:
    rows = [instruction(f"q{number}") for number in range(40)]
    with running(lambda body, n: "x", latency_s=0.02) as seen:
        endpoint = {"limits": {"in_flight": 4}, "sampling": {"max_tokens": 20}}
        # The worst case of a request is 2 bytes + 80 for any template + 20 tokens; its usage is 2.
        config = config_for(
            seen.url, budget={"max_tokens": 150}, teacher=endpoint, judge={"sampling": {"max_tokens": 20}}
        )
        with opened(config) as roles:
            assert not roles.drained()
            table = roles.ask(dataset(rows), echo, ECHO).take_all()
            used = roles.usage()
            assert roles.drained()
    reasons = [row["reason"] for row in table]
    assert len(table) == 40 and reasons.count("budget_used_up") > 15
    tokens = sum(role["input_tokens"] + role["output_tokens"] for role in used.values())
    assert 40 < tokens <= 150 and tokens == 2 * len(seen.requests)


@pytest.mark.slow
def test_usage_is_kept_over_attempts_and_the_death_of_its_actor(ray_local: None, tmp_path: Path) -> None:
    rows = [instruction(f"q{number}") for number in range(8)]
    with running(lambda body, n: "x") as seen:
        config = config_for(seen.url, budget={"max_tokens": 100_000}, cache={"enabled": False})
        for attempt in (1, 2):
            with Roles(config, f"kept-{attempt}", None, str(tmp_path), attempt) as roles:
                assert roles.ask(dataset(rows), echo, ECHO).count() == len(rows)
                time.sleep(1.5)  # Usage is saved once a second.
                ray.kill(roles._actor, no_restart=False)
                assert roles.usage()["judge"]["requests"] == (8 if attempt == 1 else 16)
                assert roles.ask(dataset(rows[:2]), echo, ECHO).count() == 2
                assert roles.usage()["judge"]["requests"] == (10 if attempt == 1 else 18)
            rows = rows[:6]
            assert roles.usage()["teacher"]["unsettled_tokens"] == 0


def test_a_student_behind_an_endpoint_answers_rows(ray_local: None) -> None:
    rows = [instruction("long?"), instruction("none?"), instruction("error?"), instruction("gone", status="filtered")]

    def student(body: dict[str, Any], attempt: int) -> Choice | Fault:
        replies = {"long?": Choice("half an", "length"), "none?": Choice(""), "error?": Fault(404)}
        return replies[body["messages"][0]["content"]]

    with running(student) as seen:
        config = config_for(
            "http://127.0.0.1:9/v1",
            student={
                "engine": "openai",
                "model": "s",
                "endpoint": {"model": "s", "base_url": seen.url, "api_key_env": None},
                "sampling": {"max_tokens": 9},
            },
        )
        with opened(config) as roles:
            table = roles.ask(dataset(rows), student_answer, schemas.SCORED).take_all()
            assert roles.usage()["student"]["requests"] == 3
    by_id = {row["instruction_id"]: row for row in table}
    long, none, error, filtered = (by_id[row["instruction_id"]] for row in rows)
    assert (long["student_response"], long["finish_reason"], long["status"]) == ("half an", "length", "ok")
    assert (none["student_response"], none["status"]) == ("", "ok")
    assert error["status"] == "failed" and filtered["student_response"] is None
    assert {body["max_tokens"] for body in seen.requests} == {9}


def test_check_names_the_key_and_the_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with running(lambda body, n: "x") as seen:
        opened(config_for(seen.url)).check()
        monkeypatch.delenv("TAPIR_TEST_KEY", raising=False)
        config = config_for(seen.url, teacher={"api_key_env": "TAPIR_TEST_KEY"})
        with pytest.raises(InputError, match=r"teacher\.api_key_env.*TAPIR_TEST_KEY is not set"):
            opened(config).check()
        monkeypatch.setenv("TAPIR_TEST_KEY", "wrong")
        with pytest.raises(InputError, match="refuses the key") as refused:
            opened(config).check()
        assert "wrong" not in str(refused.value)
        monkeypatch.setenv("TAPIR_TEST_KEY", "right")
        opened(config).check()
        simulated = config_for("simulator", simulator={}, teacher={"api_key_env": "TAPIR_NO_KEY"})
        opened(simulated, simulator_url=seen.url).check()
        opened(simulated, simulator_url=seen.url.removesuffix("/v1")).check()
        assert not seen.requests
    with pytest.raises(InputError, match=r"teacher\.base_url .* cannot be reached"):
        opened(config_for("http://127.0.0.1:9/v1")).check()
    with pytest.raises(InputError, match="simulator"):
        opened(simulated)
    model = tmp_path / "model"
    served = {"engine": "vllm", "model": str(model), "base_url": None}
    with pytest.raises(InputError, match=r"teacher\.model .* is not a folder"):
        opened(config_for("", teacher=served)).check()
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no tokenizer"):
        opened(config_for("", teacher=served)).check()


@pytest.mark.parametrize(("engine", "hours"), [("openai", 0), ("openai_batch", 26)])
def test_only_batches_let_a_stage_wait_for_hours(engine: str, hours: int) -> None:
    judge = {"same_as": None, "base_url": "http://e", "engine": engine}
    assert Roles(config_for("http://e", judge=judge), "r").batch_s == hours * 3600


@pytest.mark.slow
def test_a_stage_fits_next_to_an_engine_that_holds_nearly_all_cpus(ray_local: None) -> None:
    one, none = dataset([instruction("q")]), dataset([])
    engine = ray.remote(Engine).options(num_cpus=3.8).remote()
    ray.get(engine.ready.remote())
    with running(lambda body, n: "x") as seen:
        config = config_for(seen.url)
        with opened(config) as roles:
            assert roles.ask(one, echo, ECHO).take_all()[0]["reply"] == "x"
            assert roles.ask(none, echo, ECHO).take_all() == []
    ray.kill(engine)


class Engine:
    """An actor that claims CPUs."""

    def ready(self) -> None:
        """Returns once the actor runs."""
