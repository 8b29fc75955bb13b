"""The whole loop as a user runs it: the command, real vLLM, DeBERTa and DeepSpeed, a teacher and judge over HTTP.

The run is stopped after scoring and started again, so that the checks see a continued run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from benchmarks.loop import QUICK
from tapir_ray import cli
from tapir_ray.report.html.report import BROKEN

ROOT = Path(__file__).parents[1]


def tapir(*arguments: str, timeout: int = 560) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "tapir_ray.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env=environment,
    )


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("end") / "run"
    command = ["run", "tests/loop.yaml", "--run-dir", str(folder), "--set", *QUICK]
    stopped = tapir(*command, "--until", "score")
    assert stopped.returncode == 0, stopped.stderr[-4000:]
    assert "stopped after score" in stopped.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("stopped", "stopped after score, as asked")
    assert summary["usage"]["judge"]["requests"] > 0
    scored = (folder / "rounds/01/scored/_manifest.json").stat().st_mtime_ns
    finished = tapir(*command)
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert (folder / "rounds/01/scored/_manifest.json").stat().st_mtime_ns == scored, "scored rows were scored again"
    (folder / "stdout.txt").write_text(finished.stdout)
    return folder


def table(run_dir: Path, name: str) -> pa.Table:
    return pads.dataset(run_dir / name, format="parquet").to_table()


@pytest.mark.timeout(1200)
def test_every_row_is_accounted_for(run_dir: Path) -> None:
    read, instructions = table(run_dir, "seed/read"), table(run_dir, "seed/instructions")
    assert len(read) == len(instructions) == 900
    assert set(instructions["status"].to_pylist()) <= {"ok", "filtered"}
    ok = [row for row in instructions.to_pylist() if row["status"] == "ok"]
    assert len({row["instruction_id"] for row in ok}) == len(ok)
    held = {row["instruction_id"] for row in ok if row["split"] == "holdout"}
    assert len(held) == 50, "one of each family and level"

    scored = table(run_dir, "rounds/01/scored")
    candidates = table(run_dir, "rounds/01/candidates")
    assert sorted(scored["instruction_id"].to_pylist()) == sorted(candidates["instruction_id"].to_pylist())
    assert held < set(scored["instruction_id"].to_pylist())
    for row in scored.to_pylist():
        if row["status"] == "ok":
            assert row["difficulty"] == pytest.approx(row["teacher_score"] - row["student_score"], abs=0.011)

    generated = table(run_dir, "rounds/01/generated")
    assert len(generated) == 60
    assert len(set(generated["draw_id"].to_pylist())) == 60
    assert all(row["reason"] for row in generated.to_pylist() if row["status"] != "ok")

    trained = set(table(run_dir, "rounds/01/training")["instruction_id"].to_pylist())
    trained |= set(table(run_dir, "seed/training")["instruction_id"].to_pylist())
    assert not trained & held, "holdout rows were trained on"


def test_the_training_set_has_the_planned_share_of_hard_tokens(run_dir: Path) -> None:
    plan = json.loads((run_dir / "rounds/01/plan.json").read_text())
    training = table(run_dir, "rounds/01/training").to_pylist()
    tokens: Counter[str] = Counter()
    for row in training:
        tokens[row["pool"]] += row["tokens"]
    assert len({row["pair_id"] for row in training}) == len(training)
    # Each cell is within half a row of its quota.
    longest = max(row["tokens"] for row in training)
    cells = sum(quota > 0 for tasks in plan["mix"]["quota"].values() for quota in tasks.values())
    assert abs(tokens["hard"] - plan["mix"]["alpha"] * plan["mix"]["size"]) <= cells * longest / 2 + 1


def test_packed_rows_are_the_training_rows(run_dir: Path) -> None:
    packed = table(run_dir, "rounds/01/packed").to_pylist()
    pairs = [pair for row in packed for pair in row["pair_ids"]]
    assert sorted(pairs) == sorted(table(run_dir, "rounds/01/training")["pair_id"].to_pylist())
    assert [row["seq_index"] for row in sorted(packed, key=lambda row: row["seq_index"])] == list(range(len(packed)))
    for row in packed:
        starts = [at for at, position in enumerate(row["position_ids"]) if position == 0]
        assert len(starts) == len(row["pair_ids"])
        assert all(row["labels"][start] == -100 for start in starts)


def test_summary_and_output_name_the_result(run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    (entry,) = summary["rounds"]
    assert summary["status"] == "done"
    assert entry["generated"] + sum(entry["filtered"].values()) <= 60
    for when in ("student_score_before", "student_score_after"):
        assert 1 <= entry[when]["mean"] <= 10
        # The other half of the holdout chooses the round.
        assert entry[when]["rows"] + summary["holdout"]["selecting_rows"] >= 30
        assert entry[when]["rows"] >= 10 and summary["holdout"]["selecting_rows"] >= 10
    assert {"score", "generate", "mix", "train"} <= entry["seconds"].keys()
    usage = summary["usage"]
    assert usage["teacher"]["requests"] >= 200 + 60
    assert usage["judge"]["requests"] >= 2 * len(table(run_dir, "rounds/01/scored"))
    output = (run_dir / "stdout.txt").read_text()
    assert summary["student"] in output
    assert "summary.json" in output


def test_the_report_is_written_at_the_end_and_named(run_dir: Path) -> None:
    page = (run_dir / "report.html").read_text()
    assert BROKEN not in page and "done, 1 of 1 rounds trained" in page
    assert "hardest" in page and "judge, teacher&#39;s answer first" in page
    assert f"report: {run_dir}/report.html" in (run_dir / "stdout.txt").read_text()


def test_status_agrees_with_the_summary(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(run_dir), "--json"]) == 0
    found, summary = json.loads(capsys.readouterr().out), json.loads((run_dir / "summary.json").read_text())
    (entry,) = summary["rounds"]
    assert (found["status"], found["stages"], found["continue"]) == ("done", [], None)
    assert (found["rounds_trained"], found["rounds_planned"]) == (1, 1)
    before, first = found["rounds"]
    assert before == {"round": 0, "holdout_score": entry["student_score_before"]["mean"]}
    assert first["holdout_score"] == entry["student_score_after"]["mean"]
    assert [first[name] for name in ("alpha", "threshold", "hard", "easy")] == [
        entry[name] for name in ("alpha", "threshold", "hard", "easy")
    ]
    assert -9 <= first["difficulty"] <= 9
    assert found["spend"]["roles"] == summary["usage"]


def test_students_load_in_transformers(run_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in ("00", "01"):
        folder = run_dir / "checkpoints" / name
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert model.generation_config.eos_token_id in (tokenizer.eos_token_id, [tokenizer.eos_token_id])
        assert tokenizer.chat_template


def test_a_finished_run_repeats_nothing(run_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.parquet")}
    again = tapir("run", "tests/loop.yaml", "--run-dir", str(run_dir), "--set", *QUICK)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.parquet")} == before


def test_rows_that_did_not_fail_are_not_asked_again(run_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.parquet")}
    retried = tapir("retry", str(run_dir))
    assert retried.returncode == 0, retried.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.parquet")} == before


def test_another_config_is_refused_in_its_folder(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "tests/loop.yaml", "--run-dir", str(run_dir), "--set", *QUICK, "curriculum.alpha=0.9"]
    assert cli.main(command) == 2
    assert "curriculum.alpha" in capsys.readouterr().err


def test_the_classifier_command_reports_on_the_runs_classifier(run_dir: Path) -> None:
    shown = tapir("classifier", "train", "tests/loop.yaml", "--run-dir", str(run_dir), "--set", *QUICK)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert "accuracy" in shown.stdout
    assert "macro-F1" in shown.stdout
    assert str(run_dir / "classifier/model") in shown.stdout
