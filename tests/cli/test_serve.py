"""`tapir serve` and `tapir chat` with the real engine: a student of a run answers, and nothing is left at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tapir_ray.cli import main
from tapir_ray.cli.serve import settings_of
from tapir_ray.config import CreateModel
from tapir_ray.errors import InputError
from tapir_ray.llm.serve import local_server
from tapir_ray.llm.serve.local_server import Settings, served
from tapir_ray.train.create_student import create_student
from tests.report.export.runs import finished_run

CREATE = CreateModel(hidden_size=64, intermediate_size=64, layers=1, heads=2, vocab_size=400, max_length=256)
"""Heads of 32, the smallest of vLLM on CPUs."""
STUDENT = {"model": "owner/small", "dtype": "float32", "max_model_len": 128, "sampling": {"max_tokens": 8}}
TRAIN = {"initial_sft": "on", "sequence_length": 32}
ENGINE = {"max_num_seqs": 4, "kv_cache_memory_bytes": 50_000_000}
TAPIR = [sys.executable, "-m", "tapir_ray.cli"]


def run_with_student(folder: Path) -> str:
    """Returns a finished run whose best student is a tiny model with random weights."""
    run, tables = finished_run(folder, student={**STUDENT, "engine_kwargs": ENGINE}, train=TRAIN)
    texts = [f"Say {number}. It is {number + 1}." for number in range(200)]
    place = Path(run.path(tables.checkpoint(1).path))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"):
        (place / name).unlink()
    create_student(CREATE, texts, str(place), "plain", 0)
    return run.uri


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def gone(processes: list[psutil.Process], seconds: float = 30.0) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


def test_a_run_is_served_with_the_settings_of_its_engine(tmp_path: Path) -> None:
    sections = {"student": {**STUDENT, "engine_kwargs": ENGINE}, "resources": {"student": {"gpus": 0.5}}}
    run, _ = finished_run(tmp_path, train=TRAIN, **sections)
    settings = settings_of(run.uri, None, 8000, ["student.max_model_len=64"])
    assert settings.model == run.uri_of("checkpoints/01") and settings.name == "mine"
    assert (settings.student.max_model_len, settings.student.engine_kwargs) == (64, ENGINE)
    assert settings.replicas.gpus == 0.5 and settings.samples_as_run and not settings.fit
    folder = run.uri_of("checkpoints/02")
    model = settings_of(folder, None, 0, [])
    assert (model.model, model.name, model.samples_as_run, model.fit) == (folder, "02", False, True)
    assert not settings_of(folder, None, 0, ["student.max_model_len=64"]).fit
    with pytest.raises(InputError, match="is a model and has no other students"):
        settings_of(folder, "best", 0, [])
    with pytest.raises(InputError, match="is no folder"):
        settings_of(str(tmp_path / "nothing"), None, 0, [])


def test_a_port_that_is_taken_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings("owner/small", "m", settings_of_student(), port=port)
        with pytest.raises(InputError, match=f"port {port} cannot be used .* by --port"), served(settings):
            pass


def settings_of_student() -> Any:
    from tapir_ray.config import Student

    return Student(**STUDENT)


@pytest.mark.slow
def test_a_student_is_served_until_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*TAPIR, "serve", run_with_student(tmp_path), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as tapir:
        assert tapir.stdout is not None
        lines = [tapir.stdout.readline() for _ in range(3)]
        assert lines[1].startswith("mine answers at http://127.0.0.1:"), lines
        url = lines[1].split()[3].rstrip(",")
        body = lines[2].partition(" -d '")[2].rstrip("'\n")
        request = urllib.request.Request(f"{url}/chat/completions", body.encode(), {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        replies = [json.loads(opener.open(request, timeout=60).read())["choices"][0] for _ in range(2)]
        assert replies[0]["message"]["content"] == replies[1]["message"]["content"], "sampled as in the run: greedy"
        models = json.loads(opener.open(f"{url}/models", timeout=60).read())["data"]
        assert [(one["id"], one["max_model_len"]) for one in models] == [("mine", 128)]
        asked = subprocess.run(
            [*TAPIR, "chat", "--url", url, "--max-tokens", "4"],
            input="What is 2 + 3?\nand 4?\n/reset\nWhat is 2 + 3?\n", capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout
        children = family(tapir.pid)
        assert any("EngineCore" in " ".join(child.cmdline()) for child in children)
        tapir.send_signal(signal.SIGINT)
        assert tapir.wait(60) == 0
    assert gone(children), "the engine outlived the command"
    assert not list(tmp_path.glob("tapir-*/serve-*.log")), "the log of a server that ended as asked is left"


@pytest.mark.slow
def test_a_talk_starts_a_server_that_dies_with_it(tmp_path: Path) -> None:
    run = run_with_student(tmp_path)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [*TAPIR, "chat", run, "--student", "best"]
    asked = subprocess.run(
        command, input="What is 2 + 3?\n/quit\n", capture_output=True, text=True, timeout=300, env=environment
    )
    assert asked.returncode == 0, asked.stderr
    assert "loading" in asked.stderr and asked.stdout.endswith("\n")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as tapir:
        assert tapir.stdin is not None and tapir.stdout is not None
        tapir.stdin.write("What is 2 + 3?\n")
        tapir.stdin.flush()
        # The answer of random weights may be empty, and then the line has its end alone.
        assert tapir.stdout.readline() == asked.stdout.splitlines(keepends=True)[0]
        children = family(tapir.pid)
        tapir.kill()
    assert children and gone(children), "the engine outlived a killed command"


def test_a_server_that_cannot_start_shows_the_end_of_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    # Python itself, which does not know the module: no engine is started for this.
    monkeypatch.setattr(local_server, "MODULE", "tapir_ray.no_such_server")
    run, _ = finished_run(tmp_path, student=STUDENT, train=TRAIN)
    began = time.monotonic()
    assert main(["serve", run.uri, "--port", "0"]) != 0
    assert time.monotonic() - began < 30
    said = capsys.readouterr().err
    assert "the server of mine has ended" in said and "No module named tapir_ray.no_such_server" in said
    assert list(tmp_path.glob("tapir-*/serve-*.log")), "the log that the error names is not there"
