"""A user's engine in a single file: an actor of its own answers each prompt with the prompt itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
import yaml

from tapir_ray.cluster.capacity import claimed, shortage
from tapir_ray.config import Replicas, parse
from tapir_ray.config.engines import EngineSpec
from tapir_ray.data import schemas
from tapir_ray.errors import InputError
from tapir_ray.llm.asker import Row
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.client import Client, slots
from tapir_ray.llm.client.concurrency import InFlight
from tapir_ray.llm.client.failures import RequestFailed
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.engine.base import Engine, StudentWork
from tapir_ray.llm.engine.registry import engine_class
from tests.transforms.asking import config_for, dataset, instruction, opened

DOCS = Path(__file__).parents[3] / "docs" / "engines.md"
NAME = f"{__name__}:Echo"
REPLY = pa.schema([("instruction_id", pa.string()), ("reply", pa.string()), ("status", pa.string()),
                  ("reason", pa.string())])  # fmt: skip


class Mouth:
    """An actor that holds the engine's resources and answers."""

    def say(self, text: str) -> str:
        return text


class EchoClient(Client):
    """A client that asks the actor named by the target."""

    async def generate(self, body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        if text == "busy":
            raise RequestFailed("the echo is busy", again=True)
        answer = await ray.get_actor(str(self.target.base_url)).say.remote(text)
        return {
            "model": "echo-1",
            "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": answer}}],
            "usage": {"prompt_tokens": len(text), "completion_tokens": len(answer)},
        }


class Echo(Engine):
    """An engine whose actor claims `resources.<role>`."""

    spec = EngineSpec("echo", ("engine_kwargs",), local=True, paid=False, student=True)

    def check(self) -> None:
        if unknown := sorted(self.setting.endpoint.engine_kwargs):
            raise InputError(f"{self.setting.role}.engine_kwargs.{unknown[0]}: an echo has no such setting")

    def start(self) -> None:
        claim = self.claims()
        assert claim is not None
        self._mouth: Any = ray.remote(num_cpus=claim.cpus)(Mouth).options(name=self.url()).remote()
        ray.get(self._mouth.__ray_ready__.remote())

    def stop(self) -> None:
        ray.kill(self._mouth)

    def url(self) -> str:
        return f"{self.setting.run_id}-{self.setting.role}"

    @classmethod
    def client(
        cls, target: Target, meter: Meter, in_flight: InFlight, cache: Cache | None = None, folder: str | None = None
    ) -> Client:
        return EchoClient(target, meter, in_flight, cache)

    @staticmethod
    def generate(rows: ray.data.Dataset, work: StudentWork) -> ray.data.Dataset:
        return rows.map(echoed, fn_kwargs={"model": work.model}, num_cpus=work.transform_cpus)


def echoed(row: Row, model: str) -> Row:
    """Returns the row with its own prompt as the student's answer."""
    return {**row, "student_response": f"{model}: {row['messages'][-1]['content']}", "finish_reason": "stop"}


async def asked(clients: Mapping[str, Client], row: Row) -> Row:
    """Returns the row with the teacher's reply; the judge is asked too."""
    reply = await clients["teacher"].chat(row["messages"], kind="respond")
    await clients["judge"].chat(row["messages"], kind="judge")
    return {**row, "reply": reply.text, "status": reply.status, "reason": reply.reason}


def teacher(**keys: Any) -> dict[str, Any]:
    """Returns the config section of an echo engine."""
    return {"engine": NAME, "model": "echo", "base_url": None, "max_attempts": 1, **keys}


def up(name: str) -> bool:
    """Returns whether a named actor exists."""
    return any(found == name for found in ray.util.list_named_actors())


@pytest.mark.slow
def test_an_own_engine_teaches_holds_its_claim_and_frees_it_for_training(ray_local: None) -> None:
    cpus = ray.cluster_resources()["CPU"]
    # Training fits only once the echo has stopped.
    resources = {"teacher": {"cpus": 1.5}, "train": {"cpus": cpus - 1}}
    config = config_for("", teacher=teacher(), resources=resources)
    rows = [instruction("one"), instruction("two"), instruction("busy")]
    with opened(config) as roles:
        roles.check()
        mouth = roles._engines["teacher"].target().base_url
        assert mouth is not None and not up(mouth)
        table = roles.ask(dataset(rows), asked, REPLY).take_all()
        # The worker that asked may still hold its 0.1 CPU.
        assert up(mouth) and cpus - 1.7 < ray.available_resources()["CPU"] <= cpus - 1.5
        roles.free_resources_for("classifier")
        assert up(mouth), "both fit at once"
        roles.free_resources_for("train")
        assert not up(mouth)
        again = roles.ask(dataset(rows[:1]), asked, REPLY).take_all()
        assert again[0]["reply"] == "one" and up(mouth)
        usage = roles.usage()["teacher"]
    assert not up(mouth)
    replies = {row["instruction_id"]: row for row in table}
    one, two, busy = (replies[row["instruction_id"]] for row in rows)
    assert (one["reply"], two["reply"]) == ("one", "two")
    assert (busy["status"], busy["reason"]) == ("failed", "RequestFailed: the echo is busy")
    assert (usage["requests"], usage["failed"], usage["output_tokens"], usage["cost"]) == (4, 1, 9, 0)


def test_the_claim_of_an_own_engine_is_checked_before_the_run() -> None:
    config = config_for("", teacher=teacher(), resources={"teacher": {"cpus": 3}})
    assert claimed(config)["teacher"] == Replicas(cpus=3)
    assert "resources.teacher needs" in str(shortage(config, [{"CPU": 2.0, "GPU": 0.0}]))


def test_an_own_engine_serves_the_student(ray_local: None) -> None:
    config = parse({"name": "x", "seed_data": {"path": "a"}, "student": {"engine": NAME, "model": "m"}})
    assert "student" in claimed(config)
    work = StudentWork("round-1", config.student, config.resources.student, 0.1, 0)
    made = engine_class(config.student.engine).generate(dataset([instruction("hello")]), work)
    assert [row["student_response"] for row in made.take_all()] == ["round-1: hello"]


def test_settings_of_an_own_engine_are_checked() -> None:
    """`engine_kwargs` belong to the engine, keys that it does not read are refused, and it changes the results."""
    with pytest.raises(InputError, match=r"teacher\.engine_kwargs\.voice: an echo has no such setting"):
        opened(config_for("", teacher=teacher(engine_kwargs={"voice": 1}))).check()
    with pytest.raises(InputError, match=r"teacher\.base_url has no effect with this teacher\.engine"):
        config_for("", teacher=teacher(base_url="http://h/v1"))
    plain, echo = config_for("http://h/v1"), config_for("", teacher=teacher())
    assert plain.digest() != echo.digest() and echo.teacher.known_price is not None


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        ("vlm", r"teacher\.engine: unknown engine vlm; did you mean vllm\?"),
        ("gpt", r"use openai, openai_batch, vllm, or package\.module:Class"),
        ("no_such_package:Echo", r"teacher\.engine: cannot import 'no_such_package'.*PYTHONPATH"),
        (f"{__name__}:Mouth", "is not an engine: give its class a `spec`"),
        (7, r"teacher\.engine: .*string"),
    ],
)
def test_an_invalid_engine_is_refused(engine: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        config_for("", teacher={"engine": engine})
    assert "\n" not in str(error.value)


def test_a_class_that_lacks_a_part_of_an_engine_is_refused() -> None:
    with pytest.raises(InputError, match="is not a subclass"):
        engine_class(f"{__name__}:Mouth")
    with pytest.raises(TypeError, match="needs the method generate"):
        type("Silent", (Engine,), {"spec": Echo.spec})


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python, section = re.findall(r"```(?:python|yaml)\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "recorded_engine.py").write_text(python)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = config_for("", teacher={**teacher(), **yaml.safe_load(section)["teacher"]})
    with pytest.raises(InputError, match=r"teacher\.engine_kwargs\.path: 'answers\.json' is no file"):
        opened(config).check()
    (tmp_path / "answers.json").write_text('{"one?": "two words"}')
    roles = opened(config)
    roles.check()
    target = roles._engines["teacher"].target()
    client = engine_class(config.teacher.engine).client(target, Meter(), slots(target))
    reply, unknown = asyncio.run(both(client))
    assert (reply.text, reply.output_tokens, reply.status) == ("two words", 2, "ok")
    assert (unknown.status, unknown.reason) == ("failed", "RequestFailed: no answer is recorded")


async def both(client: Client) -> tuple[Reply, Reply]:
    """Returns the replies to a recorded question and to another one."""
    one, two = ([schemas.Message(role="user", content=text)] for text in ("one?", "two?"))
    return await client.chat(one, kind="respond"), await client.chat(two, kind="respond")
