"""Bad input ends with exit status 2 and one sentence that names the change to make, before any model or request."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from tapir_ray import cli
from tapir_ray.config import CreateModel
from tapir_ray.train.create_student import create_student

GOOD_ROW = {"instruction": "Say hello.", "output": "Hello."}
STUDENT = {"create": {"max_length": 256}, "max_model_len": 256}
NOWHERE = {"base_url": "http://127.0.0.1:9/v1", "api_key_env": None}


def command(tmp_path: Path, rows: list[str] | None = None, verb: str = "run", **changes: object) -> list[str]:
    """The arguments of `tapir` for a valid config with the given changes; writes the config and its seed rows."""
    (tmp_path / "seed.jsonl").write_text("\n".join(rows if rows is not None else [json.dumps(GOOD_ROW)] * 3) + "\n")
    config = {
        "name": "bad",
        "seed_data": {"path": str(tmp_path / "seed.jsonl")},
        "student": STUDENT,
        "teacher": {"base_url": "simulator", "api_key_env": None},
        "simulator": {"scenario": "tasks"},
        "train": {"sequence_length": 256, "micro_batch_size": 4},
        "resources": {"cpus": 4},
        **changes,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return [verb, str(tmp_path / "config.yaml"), "--run-dir", str(tmp_path / "run")]


def run(*arguments: Any, **changes: Any) -> tuple[int, str]:
    """Returns exit status and stderr of the command, run in this process; it may not start Ray."""
    with redirect_stderr(io.StringIO()) as stderr, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
        status = cli.main(command(*arguments, **changes))
    return status, stderr.getvalue()


def run_process(*arguments: Any, **changes: Any) -> tuple[int, str]:
    """Returns exit status and stderr of the command, run in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "tapir_ray.cli", *command(*arguments, **changes)],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
    )
    return done.returncode, done.stderr


def refused(ended: tuple[int, str], *words: str) -> None:
    status, stderr = ended
    assert status == 2, stderr[-3000:]
    lines = [line for line in stderr.splitlines() if line.startswith("tapir: ")]
    assert len(lines) == 1
    assert "Traceback" not in stderr
    for word in words:
        assert word in lines[0]


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    refused(run(tmp_path, curriculum={"alfa": 1}), "curriculum.alfa", "unknown key; did you mean alpha?")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refused(run(tmp_path, seed_data={"path": str(tmp_path / "none.jsonl")}), "seed_data.path", "none.jsonl")


def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    refused(run(tmp_path, curriculum={"weights": {"Maths": 1.0}}), "curriculum.weights", "Maths")


def test_a_missing_key_variable_is_refused(tmp_path: Path) -> None:
    teacher = {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY_AT_ALL"}
    refused(run(tmp_path, teacher=teacher), "NO_SUCH_KEY_AT_ALL")


def test_an_unreachable_endpoint_is_refused(tmp_path: Path) -> None:
    refused(run(tmp_path, teacher=NOWHERE), "teacher", "127.0.0.1:9")


def test_a_model_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    refused(run(tmp_path, student={"model": str(folder), "max_model_len": 256}), "tokenizer", str(folder))


@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_model_folder_that_lacks_a_file_is_refused(tmp_path: Path, verb: str) -> None:
    folder = tmp_path / "model"
    size = CreateModel(hidden_size=16, intermediate_size=32, layers=1, heads=2, max_length=256)
    create_student(size, ["What is 3 + 4?"], str(folder), None, 0)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 5\n")
    student = {"model": str(folder), "max_model_len": 256}
    refused(run(tmp_path, verb=verb, student=student), "model.safetensors", str(folder), "git lfs pull")


def test_an_unknown_chat_template_is_refused(tmp_path: Path) -> None:
    refused(run(tmp_path, student={**STUDENT, "chat_template": "alpacca"}), "student.chat_template", "alpacca")


def test_adapter_modules_that_the_student_lacks_are_refused(tmp_path: Path) -> None:
    train = {"sequence_length": 256, "micro_batch_size": 4, "lora": {"target_modules": ["query"]}}
    refused(run(tmp_path, train=train), "train.lora.target_modules", "query", "q_proj")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([json.dumps(GOOD_ROW), "{broken"], ("seed.jsonl:2", "skip_malformed")),
        ([], ("no usable row",)),
    ],
    ids=["malformed row", "empty seed data"],
)
def test_unusable_seed_data_is_refused(tmp_path: Path, rows: list[str], words: tuple[str, ...]) -> None:
    refused(run_process(tmp_path, rows), "seed_data.path", *words)


@pytest.mark.slow
def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "seed.json").write_text(json.dumps(GOOD_ROW))
    seed_data = {"path": str(tmp_path / "seed.json")}
    refused(run_process(tmp_path, seed_data=seed_data), "seed_data.path", "must hold a list of rows")


@pytest.mark.slow
def test_a_config_larger_than_the_cluster_is_refused(tmp_path: Path) -> None:
    refused(run_process(tmp_path, resources={"cpus": 4, "train": {"replicas": 8}}), "resources.train", "8")
    refused(run_process(tmp_path, resources={"cpus": 4, "student": {"gpus": 1}}), "resources.student", "GPU")
