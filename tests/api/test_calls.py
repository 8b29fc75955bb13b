"""Calls on a Ray that the caller has initialised: results come back, nothing is printed, no handler is installed."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import datasets
import pytest

import tapir_ray as tapir
from tapir_ray.simulator.seed import seed_rows
from tests.runs import ENDPOINT, SIMULATED

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SIZE = {"hidden_size": 64, "intermediate_size": 128, "layers": 1, "heads": 2, "vocab_size": 500, "max_length": 192}
CONFIG: dict[str, Any] = {
    "name": "calls",
    "simulator": {"scenario": "tasks", "seed_rows": 60},
    "holdout": {"rows": 8},
    "student": {"create": SIZE, "max_model_len": 192},
    "teacher": {**ENDPOINT, "model": "simulated-teacher", "sampling": {"max_tokens": 256}},
    "classify": {"by": "teacher"},
    "curriculum": {"rounds": 1, "tasks": "seed"},
    "score": {"max_rows": 20},
    "expand": {"size": 8},
    "train": {"sequence_length": 192, "precision": "float32"},
    "resources": {"transform_cpus": 0.2},
}


def rows(count: int) -> list[dict[str, Any]]:
    """Returns rows of the simulator's own tasks, each with a wrong answer of a student."""
    found = list(seed_rows(count, 0))
    return [{**row, "student_response": "no idea"} for row in found]


def in_a_thread(call: Any) -> Any:
    """Returns the result of a call in another thread than the main one."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    assert found, "the call raised"
    return found[0]


def test_check_returns_a_forecast_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = tapir.check(CONFIG, tmp_path / "run", changes={"budget.max_tokens": 10})
    assert 10 < found.tokens <= found.most_tokens and found.cost == 0.0
    assert {line.stage for line in found.lines} >= {"round 1 score", "round 1 expand"}
    assert found.report["name"] == "calls" and found.assumes
    assert not (tmp_path / "run").exists()
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_answers_are_judged_in_a_thread_and_rays_owner_keeps_it(
    ray_local: None, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray

    before = [signal.getsignal(one) for one in SIGNALS]
    context = ray.data.DataContext.get_current()
    given = rows(6)
    judged = in_a_thread(lambda: tapir.judge(given, CONFIG))
    assert judged["status"].to_pylist() == ["ok"] * 6
    assert judged["output"].to_pylist() == [row["output"] for row in given]
    assert all(score > 5 for score in judged["teacher_score"].to_pylist())
    assert all(gain > 0 for gain in judged["difficulty"].to_pylist()), "the wrong answers score as well"
    assert ray.is_initialized() and ray.data.DataContext.get_current() is context
    assert [signal.getsignal(one) for one in SIGNALS] == before
    assert capfd.readouterr().out == ""


def test_single_answers_are_graded_and_tasks_are_named(ray_local: None) -> None:
    given = datasets.Dataset.from_list(rows(4)).select_columns(["instruction", "output"])
    graded = tapir.judge(given, CONFIG)
    assert all(score > 5 for score in graded["answer_score"].to_pylist())
    named = tapir.classify(given, CONFIG)
    assert named["instruction"].to_pylist() == given["instruction"]
    assert all(task for task in named["task"].to_pylist()) and named["status"].to_pylist() == ["ok"] * 4


def test_a_row_without_a_response_is_not_judged() -> None:
    with pytest.raises(tapir.InputError, match="row 2 has no response to judge"):
        tapir.judge([{"instruction": "a", "output": "b"}, {"instruction": "c", "output": None}], CONFIG)


def test_a_budget_that_is_used_up_stops_the_rows(ray_local: None) -> None:
    with pytest.raises(tapir.Stopped, match="the budget is used up before all rows were asked"):
        tapir.classify(rows(4), {**CONFIG, "budget": {"max_tokens": 1}})


@pytest.mark.slow
def test_a_preview_shows_rows_of_every_stage(ray_local: None, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    shown = tapir.preview(CONFIG, rows=3, tell=told.append)
    assert list(shown.stages) == ["label", "score_seed", "score_holdout", "expand", "respond", "score_new"]
    scored = shown.stages["score_seed"].to_pylist()
    assert len(scored) == 3 and all(row["difficulty"] is not None for row in scored)
    text = str(shown)
    assert "expand: the teacher writes a new instruction" in text and "difficulty:" in text
    assert any("pilot expand" in line for line in told) and capfd.readouterr().out == ""
    with pytest.raises(tapir.InputError, match="give at least 1"):
        tapir.preview(CONFIG, rows=0)


@pytest.mark.slow
def test_a_run_is_returned_and_continues(tmp_path: Path, ray_local: None, capfd: pytest.CaptureFixture[str]) -> None:
    """The handlers are looked at while the run goes on, in the main thread."""
    before, seen, told = [signal.getsignal(one) for one in SIGNALS], [], []

    def tell(line: str) -> None:
        seen.append([signal.getsignal(one) for one in SIGNALS])
        told.append(line)

    given = {**CONFIG, "student": {**CONFIG["student"], **SIMULATED}}
    run = tapir.run(given, tmp_path / "run", until="classify", tell=tell)
    assert "seed/instructions" in run.tables and all(one == before for one in seen)
    assert told[-1] == "the stage classify is complete"
    assert run.table("instructions").to_pandas()["task"].notna().all()
    assert run.usage["teacher"]["requests"] >= 60
    again = in_a_thread(lambda: tapir.run(run.config, run.uri, until="classify"))
    assert again.usage["teacher"]["requests"] == run.usage["teacher"]["requests"], "asked again"
    captured = capfd.readouterr()
    assert captured.out == "" and "round" not in captured.err
    with pytest.raises(tapir.InputError, match="no such stage"):
        tapir.run(given, tmp_path / "run", until="scroe")


@pytest.mark.slow
def test_a_dataset_of_a_program_is_regenerated(tmp_path: Path, ray_local: None) -> None:
    import ray.data

    given = datasets.Dataset.from_list(rows(40)).select_columns(["instruction", "output"]).to_list()
    config = {"name": "again", "regenerate": {"operations": ["filter"]}, "resources": {"transform_cpus": 0.2}}
    run = tapir.regenerate(datasets.Dataset.from_list([*given, given[0]]), config, tmp_path / "run")
    made = run.table("dataset")
    assert run.summary["rows"] == 41 and len(made) == run.summary["ok"] < 41
    assert len(made.to_hf()) == len(made) and run.cost == 0.0
    again = tapir.regenerate(ray.data.from_items(given), config, tmp_path / "other")
    assert len(again.table("dataset")) == len(made)
    with pytest.raises(tapir.InputError, match="rows of another dataset"):
        tapir.regenerate(given[:3], config, tmp_path / "run")
    with pytest.raises(tapir.InputError, match="no section regenerate"):
        teacher = {"base_url": "http://127.0.0.1:9/v1", "model": "t", "api_key_env": None}
        tapir.regenerate(given, {"name": "third", "student": {"model": "m"}, "teacher": teacher}, tmp_path / "third")


def test_a_running_event_loop_does_not_stop_a_check(tmp_path: Path) -> None:
    """A notebook runs every cell inside an event loop."""
    import asyncio

    async def cell() -> float:
        return tapir.check(CONFIG, tmp_path / "run").tokens

    assert asyncio.run(cell()) > 0


def test_rows_of_a_file_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "a"}) + "\nnot json\n")
    with pytest.raises(tapir.InputError, match=r"rows cannot be read: rows\.jsonl:2"):
        tapir.classify(path, CONFIG)
