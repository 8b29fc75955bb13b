"""`tapir eval`: runs and models as targets, and two models measured by a suite on the real engine, by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
import ray.data

from tapir_ray import cli
from tapir_ray.api.subjects import subjects
from tapir_ray.config import CreateModel, parse
from tapir_ray.data.schemas import SCORED, conform, instruction_id
from tapir_ray.errors import InputError
from tapir_ray.evaluate.suite import Forecast, Suite
from tapir_ray.run.run import Run
from tapir_ray.train.create_student import create_student
from tests.runs import ROOT, write_config

SPEC = f"{__name__}:Lengths"
TEXTS = [f"What is {word} plus two?" for word in ("one", "two", "three", "four", "five", "six")]


class Lengths(Suite):
    """Six questions; an answer's score is the number of its characters."""

    judge = False

    def items(self) -> ray.data.Dataset:
        rows = []
        for text in TEXTS:
            messages = [{"role": "user", "content": text}]
            rows.append({"instruction_id": instruction_id(messages), "messages": messages, "status": "ok"})
        return ray.data.from_arrow(conform(rows, SCORED))

    def count(self) -> int:
        return len(TEXTS)

    def scored(self, rows: ray.data.Dataset) -> ray.data.Dataset:
        return rows.map_batches(measured, batch_format="pyarrow", batch_size=None, num_cpus=0.1)

    def forecast(self, answer: str) -> Forecast:
        return Forecast(len(TEXTS))


def measured(batch: pa.Table) -> pa.Table:
    rows = batch.to_pylist()
    for row in rows:
        if row["status"] == "ok":
            row["student_score"] = float(len(row["student_response"]))
    return conform(rows, SCORED)


def model_in(folder: Path, random_seed: int) -> Path:
    create = CreateModel(hidden_size=64, intermediate_size=128, layers=1, heads=2, vocab_size=500, max_length=64)
    create_student(create, [*TEXTS, "Be brief."] * 9, str(folder), None, random_seed)
    return folder


def run_in(folder: Path, **sections: Any) -> Run:
    """Returns a run that was started in a folder."""
    content = {"name": "a", "student": {"model": "owner/student", "max_model_len": 4096}, **sections}
    config = parse({**content, "seed_data": {"path": "seed.jsonl"}})
    run = Run.open(config, str(folder))
    run.event("table", table="seed/read")
    return run


def found(target: Path | str, *suites: str, **given: Any) -> list[Any]:
    options = {"before": False, "against": None, "config": None, "overrides": [], "run_dir": None, **given}
    against = options.pop("against")
    return subjects(str(target), None if against is None else str(against), suites, **options)


def test_a_run_keeps_its_suites_and_gets_the_new_ones(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", evaluate={"students": ["last"]})
    (one,) = found(run.uri, SPEC, before=True)
    assert not one.is_model and one.run_dir == run.uri
    assert one.config.evaluate.suites == ["holdout", SPEC]
    assert one.config.evaluate.students == ["last", "initial"], "the layout needs a table for it"
    assert one.config.digest() == run.stored_config().digest()


def test_a_model_is_measured_with_the_settings_of_the_run_that_it_is_compared_with(tmp_path: Path) -> None:
    judge = {"model": "j", "base_url": "http://127.0.0.1:9/v1", "api_key_env": None}
    endpoint = {"engine": "openai", "endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "s"}}
    run = run_in(tmp_path / "run", judge=judge, student={"model": "m", "max_model_len": 4096, **endpoint})
    model = tmp_path / "model-1"
    model.mkdir()
    (model / "config.json").write_text("{}")
    first, second = found(model, SPEC, against=run.uri)
    assert (first.is_model, second.is_model) == (True, False)
    config = first.config
    assert config.work == "evaluate" and config.evaluate.suites == [SPEC] and config.control == "none"
    assert config.student.model == str(model) and config.student.spec.local and config.student.endpoint is None
    assert config.judge.model == "j" and config.student.max_model_len == 4096 and config.name == "eval-model-1"


def test_other_weights_and_other_settings_have_another_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    def folder(*suites: str, **given: Any) -> str:
        (one,) = found(tmp_path, *suites, **given)
        return str(one.run_dir)

    first = folder(SPEC)
    assert first == folder(SPEC, "my.other:Suite"), "suites share the folder of a model"
    assert first != folder(SPEC, overrides=["student.sampling.max_tokens=7"])
    (tmp_path / "model.safetensors").write_text("new weights")
    assert first != folder(SPEC)
    assert folder(SPEC, run_dir="runs/mine") == "runs/mine"


@pytest.mark.parametrize(
    ("target", "given", "says"),
    [
        ("none", {}, "none is no folder: give the folder of a run or of a model"),
        ("empty", {}, "has neither a run .* nor a model"),
        ("owner/model", {"before": True}, "--before: owner/model is a model"),
        ("run", {"run_dir": "x"}, "--run-dir: .* is a run, which holds its results itself"),
        ("owner/model", {"suites": ["holdout"]}, "the suite holdout needs the seed data"),
        ("owner/model", {"overrides": ["evaluate.suite=x"]}, "evaluate.suite: unknown key; did you mean suites"),
    ],
)
def test_a_target_that_cannot_be_measured_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, given: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    run_in(tmp_path / "run")
    suites = given.pop("suites", [SPEC])
    with pytest.raises(InputError, match=says):
        found(target, *suites, **given)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a run or a model, and --suite"),
        (["runs/a"], "give a run or a model, and --suite"),
        (["runs/a", "--annotations", "a.json"], "leave RUN|MODEL and --suite out"),
        (["--annotations", "none.json"], "none.json"),
    ],
)
def test_the_command_says_what_is_missing(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_file_of_annotations_needs_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps([{"preference": 1.0}, {"preference": 2.0}, {"preference": 2.0}, {"preference": 1.0}]))
    assert cli.main(["eval", "--annotations", str(file)]) == 0
    assert capsys.readouterr().out.startswith("win rate 50.000 %")
    assert cli.main(["eval", "--annotations", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["win_rate"] == 50.0


def test_a_model_that_cannot_answer_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_in(tmp_path / "model", 0)
    (model / "chat_template.jinja").unlink()
    monkeypatch.chdir(tmp_path)
    short = ["--set", "student.max_model_len=64"]
    assert cli.main(["eval", str(model), "--suite", SPEC, *short]) == 2
    assert "has no chat template: set student.chat_template to one of" in capsys.readouterr().err
    assert cli.main(["eval", str(model), "--suite", SPEC, "--set", "student.chat_template=plain"]) == 2
    assert "student.max_model_len 2048 is above the 64 tokens that" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "tapir_ray.cli", *arguments],
        capture_output=True, text=True, timeout=2000, cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def evaluated(folder: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command(folder, "eval", *arguments, "--json").stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_models_are_measured_and_compared_and_finished_results_are_read(tmp_path: Path) -> None:
    first, second = model_in(tmp_path / "first", 0), model_in(tmp_path / "second", 1)
    settings = ["--set", "student.max_model_len=64", "student.sampling.max_tokens=8", "student.dtype=float32"]
    alone = evaluated(tmp_path, str(first), "--suite", SPEC, *settings)
    (target,) = alone["targets"]
    results = alone["suites"]["Lengths"]
    assert results["rows"] == len(TEXTS) and results["contaminated"] is None and results["seconds"] > 0
    table = Path(target["run"]) / "evaluation/Lengths"
    rows = pads.dataset(table, format="parquet").to_table().to_pylist()
    assert results["mean"] == pytest.approx(sum(len(row["student_response"]) for row in rows) / len(rows), abs=1e-3)
    assert {row["contaminated"] for row in rows} == {None}, "nobody knows what it was trained on"

    written = (table / "_manifest.json").stat().st_mtime_ns
    both = evaluated(tmp_path, str(second), "--suite", SPEC, "--against", str(first), *settings)
    assert (table / "_manifest.json").stat().st_mtime_ns == written, "a finished table is read"
    over = both["suites"]["Lengths"]["over_against"]
    assert over["gain"]["rows"] == len(TEXTS) == over["wins"] + over["losses"] + over["ties"]
    assert over["other_mean"] == pytest.approx(results["mean"], abs=1e-3)
    assert over["gain"]["mean"] == pytest.approx(over["mean"] - over["other_mean"], abs=2e-4)
    summary = json.loads((Path(both["targets"][0]["run"]) / "summary.json").read_text())
    assert summary["status"] == "done" and summary["suites"]["Lengths"]["mean"] == both["suites"]["Lengths"]["mean"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_run_measures_its_students_and_a_model_answers_its_holdout(tmp_path: Path) -> None:
    """The run is told to measure a suite of its own for all of its students; its last checkpoint is then a model."""
    resources = {"cpus": 4, "transform_cpus": 0.4}
    file = write_config(
        tmp_path, evaluate={"suites": ["holdout", SPEC]}, control="sft", score={"max_rows": 40}, expand={"size": 10},
        resources=resources,
    )  # fmt: skip
    run_dir = tmp_path / "run"
    done = command(tmp_path, "run", str(file), "--run-dir", str(run_dir))
    assert "Lengths: the last student" in done.stdout, "the comparison with the others is printed"
    found = json.loads((run_dir / "summary.json").read_text())["suites"]["Lengths"]
    tables = {"last": "evaluation/Lengths", "initial": "evaluation/initial/Lengths"}
    tables["control"] = "control/sft/evaluation/Lengths"
    for student, path in tables.items():
        rows = pads.dataset(run_dir / path, format="parquet").to_table().to_pylist()
        assert [row["contaminated"] for row in rows] == [False] * len(TEXTS), "no seed row asks this"
        mean = sum(row["student_score"] for row in rows) / len(rows)
        assert (found if student == "last" else found[student])["mean"] == pytest.approx(mean, abs=1e-3)
    assert found["over_initial"]["gain"]["rows"] == found["over_control"]["gain"]["rows"] == len(TEXTS)

    written = {path: (run_dir / path / "_manifest.json").stat().st_mtime_ns for path in tables.values()}
    again = evaluated(tmp_path, str(run_dir), "--suite", SPEC, "holdout", "--before")
    assert {path: (run_dir / path / "_manifest.json").stat().st_mtime_ns for path in written} == written
    assert again["suites"]["Lengths"]["over_initial"]["gain"] == found["over_initial"]["gain"]
    held = again["suites"]["holdout"]["over_initial"]
    assert held["gain"]["rows"] >= 30 and "not an item" not in held["missing"], "seed rows are no items"

    model = evaluated(tmp_path, str(run_dir / "checkpoints/01"), "--suite", "holdout", "--against", str(run_dir))
    over = model["suites"]["holdout"]["over_against"]
    assert over["gain"]["rows"] >= 30 and over["missing"].get("not an item") is None, "the same rows are held out"
    assert abs(over["gain"]["mean"]) < 1.0, "the model is the run's last student"
