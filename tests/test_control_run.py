"""A control is added to a finished run, killed and continued: on real vLLM and DeepSpeed, by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.loop import QUICK
from tapir_ray.config import load
from tapir_ray.methods.tapir import layout
from tapir_ray.run.fork import fork
from tests.runs import ROOT, kill
from tests.test_end_to_end import tapir

pytestmark = pytest.mark.slow
FEWER = ("score.max_rows=40", "expand.size=20", "classify.label_rows=100")
FEW = [*(one for one in QUICK if one.partition("=")[0] not in {few.partition("=")[0] for few in FEWER}), *FEWER]


@pytest.mark.timeout(1800)
def test_a_finished_run_gets_a_control_and_says_what_the_curriculum_gains(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    command = ["run", "tests/loop.yaml", "--run-dir", str(run_dir), "--set", *FEW]
    done = tapir(*command)
    assert done.returncode == 0, done.stderr[-4000:]
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.parquet")}

    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    arguments = [sys.executable, "-m", "tapir_ray.cli", *command, "control=sft"]
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not any(run_dir.glob("ray_train/control-01-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert kill(process), "the run ended before the control was trained"
    drawn = run_dir / "control/sft/01/training/_manifest.json"
    made = drawn.stat().st_mtime_ns
    finished = tapir(*command, "control=sft")
    assert finished.returncode == 0, finished.stderr[-4000:]

    assert {path: path.stat().st_mtime_ns for path in before} == before, "the curriculum's tables are kept"
    assert drawn.stat().st_mtime_ns == made, "a continued control keeps its training set"
    summary = json.loads((run_dir / "summary.json").read_text())
    (entry,) = summary["rounds"]
    control = entry["control"]
    assert control["warnings"] == [] and control["gain"]["rows"] >= 30 and control["gain"]["left_out"] <= 20
    assert control["curriculum_tokens"] == entry["training_tokens"]
    assert abs(control["tokens"] - entry["training_tokens"]) <= 256, "one sequence"
    difference = control["curriculum_score"]["mean"] - control["student_score"]["mean"]
    assert control["gain"]["mean"] == pytest.approx(difference, abs=2e-3)
    line = f"round 1: curriculum {control['gain']['mean']:+.2f} ["
    assert line in finished.stdout
    shown = tapir("status", str(run_dir))
    assert line in shown.stdout and "over plain SFT (" in shown.stdout
    compared = json.loads(tapir("compare", str(run_dir), str(run_dir), "--json").stdout)
    assert compared["last"]["mean"] == 0 and compared["rows_of_run_only"] == 0

    without = load("tests/loop.yaml", FEW)
    kept = fork(str(run_dir), str(tmp_path / "fork"), without, layout(without))
    assert "evaluation/holdout" in kept and not any(path.startswith("control") for path in kept)
