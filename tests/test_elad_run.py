"""ELAD as a user runs it: real vLLM continues the student's steps, the teacher revises them over HTTP.

The run is stopped after the explanations and started again, so that the checks see a continued run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapir_ray.report.html.report import BROKEN
from tapir_ray.simulator.families import grade
from tests.runs import IN_FLIGHT, ROOT, SIMULATED, Driver, kill

DEMO = ROOT / "configs/elad_demo.yaml"
ROUNDS, ANNOTATIONS, PREFIXES = 2, 24, 3
SMALL = (
    "simulator.seed_rows=300", "holdout.rows=40", "score.max_rows=60", f"curriculum.rounds={ROUNDS}",
    "train.initial_epochs=2", "train.epochs=1", f"elad.annotations={ANNOTATIONS}", "elad.max_annotations=40",
    f"elad.max_prefixes={PREFIXES}", "curriculum.stop_when=never",
)  # fmt: skip


def tapir(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tapir_ray.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=ROOT)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    folder = tmp_path_factory.mktemp("elad") / "run"
    command = ["run", str(DEMO), "--run-dir", str(folder), "--set", *SMALL]
    stopped = tapir(*command, "--until", "explain")
    assert stopped.returncode == 0 and "stopped after explain" in stopped.stderr, stopped.stderr[-4000:]
    driver = Driver(DEMO, folder)
    chosen = {row["instruction_id"] for row in driver.rows("rounds/01/selected") if row["chosen"]}
    finished = tapir(*command)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert {row["instruction_id"] for row in driver.rows("rounds/01/annotated")} == chosen
    (folder / "stdout.txt").write_text(finished.stdout)
    return driver


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_the_teacher_answers_only_the_holdout_and_the_rows_of_the_initial_sft(driver: Driver) -> None:
    rows = [row for row in driver.rows("seed/instructions") if row["status"] == "ok"]
    trained = {row["instruction_id"] for row in driver.rows("seed/training")}
    answered = {row["instruction_id"] for row in rows if row["teacher_model"] is not None}
    held = {row["instruction_id"] for row in rows if row["split"] == "holdout"}
    assert answered == trained | held and 0 < len(trained) < len(rows) / 2
    candidates = {row["instruction_id"] for row in driver.rows("rounds/01/candidates")}
    assert held < candidates and not candidates & trained, "score.candidates unseen"


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_the_most_uncertain_questions_are_annotated_once_each_within_the_budget(driver: Driver) -> None:
    samples = yaml.safe_load(DEMO.read_text())["elad"]["samples"]
    annotated: list[str] = []
    for number, count in ((1, ANNOTATIONS), (2, 40 - ANNOTATIONS)):
        selected = driver.rows(f"rounds/0{number}/selected")
        chosen = [row["uncertainty"] for row in selected if row["chosen"]]
        others = [row["uncertainty"] for row in selected if not row["chosen"]]
        assert len(chosen) == count and min(chosen) >= max(others), "those of the highest uncertainty"
        continued = driver.rows(f"rounds/0{number}/continued")
        for row in selected:
            mine = [one for one in continued if one["instruction_id"] == row["instruction_id"]]
            assert len(mine) == min(PREFIXES, len(row["steps"]) - 1) == len(row["step_uncertainty"])
            assert all(len(one["student_samples"]) == samples - 1 for one in mine)
            assert all(row["student_response"].startswith(one["answer_prefix"].rstrip()) for one in mine)
            assert row["uncertainty"] == pytest.approx(
                sum(row["step_uncertainty"]) / max(1, len(mine)) + row["disagreement"]
            )
        assert all(one["prompt_tokens"] > 0 and one["answer_tokens"] >= samples for one in continued)
        annotated += [row["instruction_id"] for row in driver.rows(f"rounds/0{number}/annotated")]
    assert len(set(annotated)) == len(annotated) == 40


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_a_revision_keeps_the_right_steps_and_is_right(driver: Driver) -> None:
    rows = [row for number in (1, 2) for row in driver.rows(f"rounds/0{number}/annotated") if row["status"] == "ok"]
    assert {"faulty"} <= {row["verdict"] for row in rows} <= {"faulty", "right"}
    for row in rows:
        question = row["messages"][-1]["content"]
        assert grade(question, row["response"]) == 1.0, row
        if row["verdict"] == "right":
            assert row["response"] == row["student_response"] and row["first_faulty"] is None
        else:
            kept = row["response"].removesuffix(row["revision"]).rstrip()
            assert row["student_response"].startswith(kept) and row["first_faulty"] >= 1
            assert (kept == "") == (row["first_faulty"] == 1)
    training = {row["instruction_id"] for row in driver.rows("rounds/02/training")}
    assert training == {row["instruction_id"] for row in rows}, "train.data cumulative: both rounds"


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_reports_and_verbs_know_the_method(driver: Driver) -> None:
    folder = driver.run.uri
    summary = json.loads(Path(folder, "summary.json").read_text())
    assert [entry["elad"]["annotations"] for entry in summary["rounds"]] == [ANNOTATIONS, 40 - ANNOTATIONS]
    tokens = sum(row["input_tokens"] for row in driver.rows("rounds/01/annotated"))
    assert summary["rounds"][0]["elad"]["teacher_input_tokens"] == tokens > 0
    assert "first faulty" in Path(folder, "stdout.txt").read_text().replace("\n", " ")
    page = Path(folder, "report.html").read_text()
    assert BROKEN not in page and "Annotations" in page
    told = tapir("status", folder)
    assert told.returncode == 0 and "elad.select uncertain" in told.stdout, told.stdout + told.stderr
    listed = tapir("rows", folder, "--table", "annotated", "--round", "1", "--json")
    assert listed.returncode == 0 and '"verdict"' in listed.stdout, listed.stderr
    again = tapir("retry", folder)
    assert again.returncode == 0 and "no row failed" in again.stderr, again.stderr[-2000:]


@pytest.mark.restart
@pytest.mark.timeout(1500)
def test_a_killed_annotation_continues_without_paying_twice(tmp_path: Path) -> None:
    """A student behind an endpoint, so that no engine has to start; its answers have one step."""
    content: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    content["simulator"] |= {"seed_rows": 200, "latency_s": 0.3, "log": str(tmp_path / "log.jsonl")}
    content["holdout"] = {"rows": 20}
    content["student"] = {**content["student"], **SIMULATED}
    content["student"].pop("engine_kwargs")
    content["curriculum"] = {"rounds": 1, "tasks": "seed"}
    content["teacher"] |= {"limits": {"in_flight": IN_FLIGHT}}
    content["score"]["max_rows"] = 100
    content["elad"] = {"annotations": 60, "select": "random"}
    content["train"] |= {"initial_epochs": 1, "epochs": 1}
    content["resources"] = {"cpus": 4, "transform_cpus": 0.4, "rows_per_block": 8, "train": {"replicas": 1, "cpus": 1}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    driver = Driver(path, tmp_path / "run")
    for _ in range(2):
        before, process = driver.files("rounds/01/annotated"), driver.start()
        while driver.files("rounds/01/annotated") <= before and process.poll() is None:
            time.sleep(0.05)
        assert kill(process), driver.printed()
    driver.finish()
    rows = driver.rows("rounds/01/annotated")
    assert len({row["instruction_id"] for row in rows}) == len(rows) == 60
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    asked = [(line["prompt"], line["seed"]) for line in lines if line["kind"] == "revise" and line["status"] == 200]
    assert len(set(asked)) == 60 and len(asked) <= 60 + 2 * IN_FLIGHT, "at most the requests in flight at each kill"
