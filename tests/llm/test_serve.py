"""Local servers: a real vLLM teacher on CPU through the whole path, and how a server starts, fails and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from tapir_ray import records
from tapir_ray.config import CreateModel, Endpoint, Replicas
from tapir_ray.errors import StageError
from tapir_ray.llm import serve
from tapir_ray.stages.label import label
from tapir_ray.stages.respond import respond
from tapir_ray.train.create_student import create_student
from tests.stages.asking import config_for, dataset, instruction, opened

STAND_IN = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{}')
    do_POST = do_GET
    def log_message(self, *arguments): pass
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


def stand_in(endpoint: Endpoint, port: int, tensor_parallel: int = 1) -> list[str]:
    """The command of a server that starts at once."""
    return [sys.executable, "-c", STAND_IN, str(port)]


def alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=2):
            return True
    except OSError:
        return False


def test_engine_arguments_become_flags() -> None:
    endpoint = Endpoint(
        engine="vllm",
        model="m",
        engine_kwargs={"enforce_eager": True, "dtype": "float32", "max_model_len": 64, "x": {}},
    )
    words = serve.command(endpoint, 8000)
    assert words[words.index("--host") + 1] == "127.0.0.1" and "--enforce-eager" in words
    assert words.count("--max-model-len") == 1 and words[words.index("--max-model-len") + 1] == "64"
    assert words[words.index("--x") + 1] == "{}" and "--trust-remote-code" not in words


def test_false_switches_off_what_is_on_by_default() -> None:
    kwargs = {"enable_prefix_caching": False, "disable_log_stats": False, "quantization": None}
    words = serve.command(Endpoint(engine="vllm", model="m", engine_kwargs=kwargs), 8000)
    assert "--no-enable-prefix-caching" in words
    assert not [word for word in words if "log-stats" in word or "quantization" in word]


@pytest.mark.slow
def test_every_switch_of_vllm_can_be_set_either_way() -> None:
    import argparse

    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    kinds = (argparse.BooleanOptionalAction, argparse._StoreTrueAction)
    switches = [action for action in parser._actions if isinstance(action, kinds)]
    assert len(switches) > 50
    for wanted in (True, False):
        kwargs = {action.dest: wanted for action in switches}
        words = serve.command(Endpoint(engine="vllm", model="m", engine_kwargs=kwargs), 8000)
        parsed = vars(parser.parse_args(words[words.index("--model") :]))
        assert {name: parsed[name] for name in kwargs} == kwargs


@pytest.mark.parametrize("claim", [Replicas(cpus=3, gpus=0), Replicas(cpus=2, gpus=1, tensor_parallel=2)])
def test_a_server_that_finds_no_place_says_which_resources_to_lower(
    ray_local: None, monkeypatch: pytest.MonkeyPatch, claim: Replicas
) -> None:
    """Without a limit a claim on what something else holds would wait for ever."""
    monkeypatch.setattr(serve, "PLACEMENT_TIMEOUT_S", 2.0)
    other = ray.remote(Holder).options(num_cpus=2).remote()
    ray.get(other.ready.remote())
    began = time.monotonic()
    wanted = f"{claim.cpus:g} CPUs and {2 * claim.gpus:g} GPUs"
    with pytest.raises(StageError, match=rf"{wanted}; lower resources\.teacher\.cpus, gpus"):
        serve.start(Endpoint(model="m"), claim, "run-teacher")
    assert time.monotonic() - began < 20
    ray.kill(other)


class Holder:
    """Something that claims CPUs."""

    def ready(self) -> None:
        """Answers once it runs."""


def test_a_server_lives_as_long_as_its_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serve, "command", stand_in)
    with serve.serving(Endpoint(model="m"), tmp_path / "log") as url:
        assert url.startswith("http://127.0.0.1:") and alive(url)
    assert not alive(url)


def test_a_server_that_does_not_start_shows_the_end_of_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serve, "command", lambda *_: [sys.executable, "-c", "raise SystemExit('no such model')"])
    with (
        pytest.raises(StageError, match=r"ended with status 1.*\n.*no such model"),
        serve.serving(Endpoint(model="m"), tmp_path / "log"),
    ):
        pass


def test_a_server_ends_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from tapir_ray.config import Endpoint; from tapir_ray.llm import serve\n"
        "from tests.llm.test_serve import stand_in\n"
        "serve.command = stand_in\n"
        "with serve.serving(Endpoint(model='m'), pathlib.Path(sys.argv[1])) as url:\n"
        "    print(url, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert alive(url)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while alive(url) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(url)


@pytest.mark.slow
def test_a_real_vllm_server_as_teacher(ray_local: None, tmp_path: Path) -> None:
    """Labels and answers of a real server that this run starts: the protocol against something we did not write."""
    folder = str(tmp_path / "teacher")
    create = CreateModel(hidden_size=64, intermediate_size=64, layers=1, heads=2, vocab_size=400, max_length=256)
    create_student(create, ["What is two plus two? Math or Art."] * 4, folder, None, 0)
    settings = {
        "engine": "vllm",
        "model": folder,
        "max_model_len": 256,
        "sampling": {"max_tokens": 32},
        "engine_kwargs": {"enforce_eager": True, "dtype": "float32"},
        # What an untrained model says is left to the server's own decoding constraint.
        "extra_body": {"structured_outputs": {"choice": ["Math"]}},
    }
    rows = [instruction("two plus two?", task=None), instruction("a word? " * 400, task=None)]
    config = config_for("", teacher={**settings, "base_url": None})
    with opened(config) as roles:
        labelled = label(dataset(rows, records.INSTRUCTIONS), config, roles, ["Math", "Art"])
        answered = respond(labelled, config, roles, {}, schema=records.INSTRUCTIONS).take_all()
        usage = roles.usage()["teacher"]
        url = roles._urls["teacher"]
    by_id = {row["instruction_id"]: row for row in answered}
    good, too_long = (by_id[row["instruction_id"]] for row in rows)
    assert (good["task"], good["response"], good["status"]) == ("Math", "Math", "ok")
    assert good["teacher_model"] == folder and json.loads(good["sampling"])["max_tokens"] == 32
    assert too_long["status"] == "failed" and too_long["reason"].startswith("BadRequestError: ")
    assert usage["requests"] == 3 and usage["failed"] == 1 and usage["output_tokens"] > 0
    assert not alive(url)
