"""`tapir init`: the written config is valid, commented and fits the answers; nothing is overwritten or left behind."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tapir_ray.cli import main
from tapir_ray.config import load
from tapir_ray.config.shipped import shipped
from tapir_ray.config.starter import Answers, hardware, starter
from tapir_ray.errors import InputError


class Terminal(io.StringIO):
    """Input of a person at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("student", ["Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "models/mine"])
@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize("teacher", [("gpt-4.1-2025-04-14", None), ("llama", "http://127.0.0.1:9/v1")])
def test_every_answer_gives_a_valid_config(
    tmp_path: Path, student: str, gpus: int, teacher: tuple[str, str | None]
) -> None:
    text = starter(Answers(student, *teacher, gpus=gpus))
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    config = load(path)
    assert config.student.model == student and config.teacher.base_url == teacher[1]
    assert config.resources.train.gpus == min(gpus, 1) and config.resources.train.replicas == max(gpus, 1)
    assert (config.train.lora is not None) == ("7B" in student and gpus == 1)
    assert config.train.precision == ("bfloat16" if gpus else "float32")
    assert (config.budget.max_cost is None) == (teacher[1] is not None), "a price that is not known counts tokens"
    assert sum(" # " in line for line in text.splitlines()) > 10


def test_flags_write_a_config_that_check_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "mine.yaml"
    seeds = tmp_path / "a b.jsonl"
    seeds.write_text("".join(json.dumps({"instruction": f"Question {n}?", "output": "x"}) + "\n" for n in range(40)))
    flags = ["--student", "a/b-1B", "--teacher", "m", "--base-url", "http://127.0.0.1:9/v1", "--key-env", "none"]
    assert main(["init", str(path), *flags, "--seeds", str(seeds), "--hardware", "2gpus"]) == 0
    assert f"next: tapir check {path}" in capsys.readouterr().err
    config = load(path)
    assert config.name == "mine" and config.seed_data.path == str(seeds) and config.teacher.api_key_env is None
    # The endpoint is the first thing that a check cannot find.
    assert main(["check", str(path), "--run-dir", str(tmp_path / "run")]) == 2
    assert "teacher.base_url http://127.0.0.1:9/v1" in capsys.readouterr().err


def test_a_file_is_not_replaced_without_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "demo.yaml"
    assert main(["init", str(tmp_path), "--from", "demo"]) == 0
    assert path.read_text() == shipped("demo").read_text()
    path.write_text("mine")
    assert main(["init", str(tmp_path), "--from", "demo"]) == 2
    assert path.read_text() == "mine" and "exists: name another file, or add --force" in capsys.readouterr().err
    assert main(["init", str(tmp_path), "--from", "demo", "--force", "--schema"]) == 0
    assert load(path).name == "demo"
    assert path.read_text().startswith("# yaml-language-server: $schema=tapir.schema.json\n")
    assert json.loads((tmp_path / "tapir.schema.json").read_text())["title"] == "tapir-ray config"


def test_a_person_is_asked_for_what_no_flag_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("\nhttp://127.0.0.1:9/v1\nllama\nnone\ncpu\n"))
    assert main(["init", str(tmp_path / "x.yaml"), "--seeds", "data.jsonl"]) == 0
    config = load(tmp_path / "x.yaml")
    assert config.student.model == "Qwen/Qwen2.5-0.5B-Instruct" and config.teacher.model == "llama"
    assert config.seed_data.path == "data.jsonl" and config.resources.train.gpus == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "this is none: give --student, --teacher, --seeds and --hardware"),
        (["--from", "dmeo"], "there is no shipped config dmeo"),
        (["--from", "demo", "--key-env", "A"], "--key-env has no effect with --from"),
        (["--hardware", "tpu"], "hardware 'tpu': write cpu, 1gpu"),
        (["--hardware", "1gpu", "--key-env", "sk-abcdefghijklmnopqrstuvwx"], "not the key"),
    ],
)
def test_answers_that_make_no_config_are_refused_and_leave_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    assert main(["init", str(tmp_path), *arguments]) == 2
    assert problem in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_shipped_configs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--list"]) == 0
    assert "qwen_1gpu_lora" in capsys.readouterr().out


def test_hardware_in_words() -> None:
    assert [hardware(text) for text in ("cpu", "1gpu", "1 GPU", "8 gpus", "4")] == [0, 1, 1, 8, 4]
    with pytest.raises(InputError, match="write cpu"):
        hardware("a lot")
