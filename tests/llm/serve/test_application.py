"""Models served by a run: a real vLLM teacher on CPU through the whole path, and how one starts, fails and ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import serve as ray_serve

from tapir_ray.cluster.interrupt import interruptible
from tapir_ray.config import Config, CreateModel, Endpoint, Replicas
from tapir_ray.data import schemas
from tapir_ray.errors import StageError
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client import reply
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.engine import health
from tapir_ray.llm.roles import Roles
from tapir_ray.llm.serve import application as serve
from tapir_ray.train.create_student import create_student
from tapir_ray.transforms.label import label
from tapir_ray.transforms.respond import respond
from tapir_ray.transforms.scores_json import scores_format
from tapir_ray.transforms.verdict import parse_scores
from tests.transforms.asking import config_for, dataset, instruction, opened

CREATE = CreateModel(hidden_size=64, intermediate_size=64, layers=1, heads=2, vocab_size=400, max_length=256)
ENGINE = {"enforce_eager": True, "dtype": "float32"}
DRIVER = """
import sys, time
import ray
from ray import serve
from tapir_ray.llm.serve.guard import guarded

class Application:
    pass

ray.init(address=sys.argv[1], logging_level="ERROR")
serve.start(http_options={"host": "127.0.0.1", "port": 0})
serve.run(serve.deployment(Application).options(ray_actor_options={"num_cpus": 0}).bind(), name="guarded-teacher")
beacon = guarded("guarded-teacher")
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def model_servers(ray_local: None) -> Iterator[None]:
    """Shuts Serve down afterwards, since it would hold its actors in the shared Ray."""
    yield
    ray_serve.shutdown()


def applications() -> set[str]:
    return set(ray_serve.status().applications)


def guards() -> list[str]:
    return [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if "guard-" in actor["name"]]


def test_engine_arguments_win_over_derived_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_computes_on_cpus", lambda: False)
    kwargs = {**ENGINE, "max_model_len": 64, "quantization": None}
    endpoint = Endpoint(engine="vllm", model="owner/m", engine_kwargs=kwargs, max_model_len=128)
    claim = Replicas(cpus=2, gpus=0.5, tensor_parallel=2, replicas=3, min_replicas=1)
    arguments = serve.deployment(endpoint, claim, "/processes")
    assert arguments["engine_kwargs"] == {
        **ENGINE,
        "max_model_len": 64,
        "tensor_parallel_size": 2,
        "trust_remote_code": False,
    }
    assert arguments["placement_group_config"] == {"bundle_per_worker": {"CPU": 2, "GPU": 0.5}}
    scaling = arguments["deployment_config"]["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("claim", [Replicas(cpus=3, gpus=0), Replicas(cpus=2, gpus=1, tensor_parallel=2)])
def test_a_model_that_does_not_fit_names_the_resources_to_lower(
    model_servers: None, tmp_path: Path, claim: Replicas
) -> None:
    """Without a limit, a claim on resources held by others would wait forever."""
    create_student(CREATE, ["a word"] * 4, str(tmp_path / "m"), None, 0)
    other = ray.remote(Holder).options(num_cpus=2).remote()
    ray.get(other.ready.remote())
    cpus = claim.cpus * claim.tensor_parallel
    wanted = f"{cpus:g} CPUs and {2 * claim.gpus:g} GPUs"
    endpoint = Endpoint(engine="vllm", model=str(tmp_path / "m"))
    with pytest.raises(StageError, match=rf"{wanted}; lower resources\.teacher\.cpus, gpus"):
        serve.start(endpoint, claim, "none-teacher", str(tmp_path / "processes"), patience_s=2.0)
    assert "none-teacher" not in applications()
    ray.kill(other)


class Holder:
    """An actor that claims CPUs."""

    def ready(self) -> None:
        """Returns once the actor runs."""


@pytest.mark.slow
def test_an_unknown_engine_argument_is_named(ray_local: None, tmp_path: Path) -> None:
    create_student(CREATE, ["a word"] * 4, str(tmp_path / "m"), None, 0)
    endpoint = Endpoint(engine="vllm", model=str(tmp_path / "m"), engine_kwargs={"dtyp": "float32"})
    with pytest.raises(StageError, match=r"Unknown engine argument: dtyp.*correct teacher\.engine_kwargs"):
        serve.start(endpoint, Replicas(cpus=1), "wrong-teacher")
    assert not guards()


@pytest.mark.slow
def test_a_model_that_fails_to_load_shows_the_end_of_its_log(model_servers: None, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    create_student(CREATE, ["a word"] * 4, str(folder), None, 0)
    break_config(folder)
    endpoint = Endpoint(engine="vllm", model=str(folder), engine_kwargs=ENGINE, max_model_len=64)
    shown = r"(?s)server of the teacher cannot be used.*its engine's log:\nRuntimeError: start .*64"
    with pytest.raises(StageError, match=shown):
        serve.start(endpoint, Replicas(cpus=1), "broken-teacher", str(tmp_path / "processes"))
    assert "broken-teacher" not in applications()


def break_config(folder: Path) -> None:
    """Changes the size of the model in its config, so that its weights no longer fit."""
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**given, "intermediate_size": 96}))


@pytest.mark.slow
def test_a_model_whose_engines_die_at_every_start_ends_the_run(
    model_servers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve restarts them forever. The log shown is that of an engine that has failed, not of the one that is
    starting."""
    monkeypatch.setattr(health, "STARTS", 1)
    folder = tmp_path / "m"
    create_student(CREATE, ["a word"] * 4, str(folder), None, 0)
    config = config_for("", teacher=teacher(str(folder)))
    rows = dataset([instruction("a word?")], schemas.INSTRUCTIONS)
    with Roles(config, "dying", folder=str(tmp_path / "run")) as roles:
        assert respond(rows, config, roles, {}, schema=schemas.INSTRUCTIONS).take_all()[0]["status"] == "ok"
        break_config(folder)
        for pid in engine_workers():
            os.kill(pid, signal.SIGKILL)
        shown = r"(?s)server of the teacher cannot be used.*its engine's log:\nRuntimeError: start .*64"
        with pytest.raises(StageError, match=shown), interruptible(), roles.watched():
            time.sleep(600)
    assert "dying-teacher" not in applications()


@pytest.mark.slow
def test_an_application_ends_with_its_killed_driver(model_servers: None) -> None:
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, address], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert driver.stdout is not None
    assert driver.stdout.readline().strip() == "up" and applications() == {"guarded-teacher"}
    assert guards() == ["guard-guarded-teacher"]
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 90
    while (applications() or guards()) and time.monotonic() < deadline:
        time.sleep(1)
    assert not applications() and not guards()


def teacher(folder: str) -> dict[str, Any]:
    """Returns the section of a served teacher.

    The server's decoding constraint gives the replies of its untrained model.
    """
    return {
        "engine": "vllm",
        "model": folder,
        "base_url": None,
        "max_model_len": 256,
        "sampling": {"max_tokens": 32},
        "engine_kwargs": ENGINE,
        "extra_body": {"structured_outputs": {"choice": ["Math"]}},
    }


@pytest.mark.slow
def test_a_real_vllm_server_replies_by_a_schema(model_servers: None, tmp_path: Path) -> None:
    """An untrained model writes anything within the schema: a score, after reasons that may never end."""
    folder = str(tmp_path / "judge")
    create_student(CREATE, ["What is two plus two? Math or Art."] * 4, folder, None, 0)
    compact = {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}}
    served_judge = {**teacher(folder), "extra_body": {}, "engine_kwargs": {**ENGINE, **compact}}
    config = config_for("", teacher=served_judge)
    whole = scores_format(1)
    short = {"type": "object", "properties": {"score": {"type": "integer", "enum": [7]}}, "required": ["score"]}
    brief = {"type": "json_schema", "json_schema": {"name": "score", "strict": True, "schema": short}}

    async def ask(clients: dict[str, Client], meter: Meter) -> list[reply.Reply]:
        hello = [{"role": "user", "content": "two plus two?"}]
        asked = [
            await clients["teacher"].chat(hello, seed=1, kind="judge", response_format=one, or_plain=False)
            for one in (brief, whole)
        ]
        await meter.flush()
        return asked

    with opened(config) as roles:
        scored, reasoned = asyncio.run(ask(*roles.clients(Meter)))
    assert scored.status == "ok" and parse_scores(scored.text or "", 1) == (7.0,), scored
    assert re.match(r'\{"reasoning":\s*"', reasoned.text or ""), reasoned
    assert reasoned.reason == "cut_off" or parse_scores(reasoned.text or "", 1) is not None, reasoned


@pytest.fixture(scope="module")
def live(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Config, Roles]]:
    """One server for the tests below. They come last, since `model_servers` would shut it down."""
    folder = str(tmp_path_factory.mktemp("live") / "model")
    create_student(CREATE, ["What is two plus two? Math or Art."] * 4, folder, None, 0)
    config = config_for("", teacher=teacher(folder))
    with opened(config) as roles:
        yield config, roles
    assert not applications()
    ray_serve.shutdown()


def used(roles: Roles) -> Counter[str]:
    """Returns the teacher's usage so far."""
    return Counter(roles.usage().get("teacher", {}))


@pytest.mark.slow
def test_requests_wait_while_a_dead_replica_is_replaced(live: tuple[Config, Roles]) -> None:
    config, roles = live
    rows = dataset([instruction(f"{number} plus two?") for number in range(6)], schemas.INSTRUCTIONS)
    earlier = used(roles)
    before = respond(rows, config, roles, {}, schema=schemas.INSTRUCTIONS).take_all()
    replicas = engine_workers()
    for pid in replicas:
        os.kill(pid, signal.SIGKILL)
    after = respond(rows, config, roles, {}, schema=schemas.INSTRUCTIONS).take_all()
    assert (used(roles) - earlier)["requests"] >= 12
    assert replicas and not replicas & engine_workers()
    assert sorted(map(answer, before)) == sorted(map(answer, after))
    assert len(before) == 6 and {row["status"] for row in before} == {"ok"}


def answer(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["instruction_id"], row["status"], row["response"]


def engine_workers() -> set[int]:
    """Returns the process ids of the replicas that hold an engine."""
    titles = {process.pid: " ".join(process.cmdline()) for process in psutil.process_iter() if alive(process)}
    return {pid for pid, title in titles.items() if "ServeReplica" in title and "LLMServer" in title}


def alive(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_real_vllm_teacher_labels_and_answers(live: tuple[Config, Roles]) -> None:
    """The run starts a real server, which checks the protocol against an implementation of others."""
    config, roles = live
    rows = [instruction("two plus two?", task=None), instruction("a word? " * 400, task=None)]
    earlier = used(roles)
    labelled = label(dataset(rows, schemas.INSTRUCTIONS), config, roles, ["Math", "Art"])
    answered = respond(labelled, config, roles, {}, schema=schemas.INSTRUCTIONS).take_all()
    usage = used(roles) - earlier
    assert len(applications()) == 1
    by_id = {row["instruction_id"]: row for row in answered}
    good, too_long = (by_id[row["instruction_id"]] for row in rows)
    assert (good["task"], good["response"], good["status"]) == ("Math", "Math", "ok")
    assert good["teacher_model"] == config.teacher.model and json.loads(good["sampling"])["max_tokens"] == 32
    assert too_long["status"] == "failed" and too_long["reason"].startswith("BadRequestError: ")
    assert reply.too_long(too_long["reason"]), too_long["reason"]
    assert usage["requests"] == 3 and usage["failed"] == 1 and usage["output_tokens"] > 0
