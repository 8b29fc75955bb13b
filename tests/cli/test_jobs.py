"""Scripts of jobs/: their arguments reach the command's function, and its exit status becomes theirs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapir_ray.cli import classifier
from tapir_ray.cli import run as launch
from tapir_ray.cli.check_cluster import HERE
from tapir_ray.config import load
from tapir_ray.errors import InputError, Stopped
from tapir_ray.run.run import Run
from tests.runs import ROOT

SCRIPTS = sorted((ROOT / "jobs").glob("*.py"))


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> int:
    """Returns the exit status of a job's script."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A config file in the working folder."""
    monkeypatch.chdir(tmp_path)
    content = {"name": "mine", "student": {"model": "owner/student"}, "seed_data": {"path": "owner/rows"}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    return "c.yaml"


@pytest.mark.parametrize(
    ("name", "arguments", "function", "expected"),
    [
        ("distill", ["--until", "mix"], (launch, "launch"), ("s3://b/r", "mix", "", "")),
        ("score", ["--from", "score=t.jsonl"], (launch, "launch"), ("s3://b/r", "score", "score=t.jsonl", "")),
        ("regenerate", [], (launch, "regenerate"), ("s3://b/r",)),
        ("train_classifier", ["--rows", "a", "b"], (classifier, "prepare"), ("s3://b/r", True, ["a", "b"])),
        ("evaluate", [], (launch, "evaluate"), ("s3://b/r",)),
    ],
)
def test_arguments_reach_the_function(
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    name: str,
    arguments: list[str],
    function: tuple[Any, str],
    expected: tuple[Any, ...],
) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(*function, lambda *given: seen.append(given))
    settings = ["--set", "curriculum.rounds=2", "random_seed=7", "--run-dir", "s3://b/r"]
    assert run(monkeypatch, name, config, *settings, *arguments) == 0
    ((given, *others),) = seen
    assert (given.curriculum.rounds, given.random_seed) == (2, 7)
    assert tuple(others) == expected


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("distill", (launch, "launch")),
        ("score", (launch, "launch")),
        ("regenerate", (launch, "regenerate")),
        ("train_classifier", (classifier, "prepare")),
        ("evaluate", (launch, "evaluate")),
    ],
)
def test_a_stop_by_the_budget_becomes_the_exit_status_of_the_script(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
    name: str,
    function: tuple[Any, str],
) -> None:
    def stops(*_: object) -> None:
        raise Stopped("the budget is used up")

    monkeypatch.setattr(*function, stops)
    assert run(monkeypatch, name, config) == 3
    assert "tapir: the budget is used up" in capsys.readouterr().err
    assert run(monkeypatch, name, "none.yaml") == 2


def test_the_status_job_prints_the_json_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tapir_ray.report.status.status", lambda uri, layout_of: {"run": uri})
    assert run(monkeypatch, "status", "s3://b/r", "--json") == 0
    assert capsys.readouterr().out == '{"run": "s3://b/r"}\n'


def test_the_check_job_checks_the_cluster_it_runs_on(monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    looked: list[tuple[Any, ...]] = []
    monkeypatch.setattr("tapir_ray.cli.check_cluster.check_cluster", lambda *given: looked.append(given) or {})
    assert run(monkeypatch, "check", config, "--run-dir", "s3://b/r", "--json") == 0
    assert looked == [(load(config), "s3://b/r", HERE)]


def test_evaluate_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    launched: list[object] = []
    monkeypatch.setattr(launch, "launch", lambda *given: launched.append(given))
    mine = load(config)
    with pytest.raises(InputError, match=f"has no checkpoints/{mine.curriculum.rounds:02d} to evaluate"):
        launch.evaluate(mine, str(tmp_path / "run"))
    Run.at(str(tmp_path / "run")).publish(f"checkpoints/{mine.curriculum.rounds:02d}")
    launch.evaluate(mine, str(tmp_path / "run"))
    assert launched == [(mine, str(tmp_path / "run"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_each_script_documents_how_to_submit_it(script: Path) -> None:
    text = script.read_text()
    assert "ray job submit --address" in text and f"python jobs/{script.name} " in text
