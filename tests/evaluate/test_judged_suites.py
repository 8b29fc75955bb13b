"""`mt_bench` and `alpaca_eval` as a run evaluates them: a student and a judge behind a simulated endpoint, on Ray."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.simulator import Options
from tapir_ray.simulator import running as simulated
from tapir_ray.simulator.requests import STUDENT
from tapir_ray.steps import evaluate
from tests.steps.contexts import rows_of, write
from tests.steps.test_evaluate import ENDPOINT, context_of, summary_of

PENS = "tom has {} pens , finds 3 , loses 2 . how many pens now ?"


def evaluated(
    folder: Path, spec: str, settings: dict[str, Any]
) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns (context, rows of the suite's table, requests in the simulator's log)."""
    log = folder / "requests.jsonl"
    with simulated(Options(log=str(log))) as url:
        endpoint = {**ENDPOINT, "base_url": url, "model": STUDENT}
        context = context_of(
            folder,
            url,
            {"model": "m", "engine": "openai", "endpoint": endpoint},
            holdout={"rows": 0},
            evaluate={"suites": [spec], spec: settings},
        )
        with context.roles:
            evaluate.evaluate(context)
            evaluate.evaluate(context)
    return context, rows_of(context, f"evaluation/{spec}"), [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.slow
def test_mt_bench_grades_both_turns_of_each_question(tmp_path: Path, ray_local: None) -> None:
    questions = [
        {"question_id": number, "category": category, "turns": [PENS.format(number), PENS.format(number + 1)]}
        for number, category in enumerate(["math", "math", "writing", "writing"], start=10)
    ]
    references = [{"question_id": number, "choices": [{"turns": ["8", "9"]}]} for number in (10, 11)]
    settings = {
        "questions": write(tmp_path / "q.jsonl", questions), "references": write(tmp_path / "r.jsonl", references)
    }  # fmt: skip
    context, rows, requests = evaluated(tmp_path, "mt_bench", settings)
    assert len(rows) == 4 and {row["status"] for row in rows} == {"ok"}
    kinds = [request["kind"] for request in requests]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"answer": 8, "mt_bench_turn_1": 4, "mt_bench_turn_2": 4}
    for row in rows:
        (first, second) = (turn["content"] for turn in row["messages"] if turn["role"] == "user")
        number = int(row["question_id"])
        assert (first, second) == (PENS.format(number), PENS.format(number + 1))
        for turn, answer in ((1, row["messages"][1]["content"]), (2, row["student_response"])):
            # The simulated student is sometimes wrong, so the grades differ; a right answer gets a 10.
            assert (row[f"turn_{turn}_score"] == 10.0) == (answer.strip() == str(number + turn))
    summary = summary_of(context)
    assert summary.rows == 4 and not summary.missing and summary.by_category.keys() == {"math", "writing"}
    ratings = [row[f"turn_{turn}_score"] for row in rows for turn in (1, 2)]
    assert summary.mean == pytest.approx(sum(ratings) / 8, abs=1e-3)
    assert summary.metrics.keys() >= {"all_ratings", "turn_1", "turn_2", "math/turn_1", "writing/turn_2"}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("alpaca_eval") is None, reason="the package alpaca-eval is not installed")
def test_alpaca_eval_compares_with_the_baseline_through_the_runs_client(tmp_path: Path, ray_local: None) -> None:
    baseline = [
        {"instruction": PENS.format(number), "output": "none", "generator": "base", "dataset": "pens"}
        for number in range(10, 16)
    ]
    settings = {"baseline": write(tmp_path / "baseline.jsonl", baseline)}
    context, rows, requests = evaluated(tmp_path, "alpaca_eval", settings)
    assert [row["position"] for row in sorted(rows, key=lambda row: row["position"])] == list(range(6))
    assert {row["status"] for row in rows} == {"ok"} and {row["generator"] for row in rows} == {"base"}
    kinds = [request["kind"] for request in requests]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"answer": 6, "alpaca_eval": 6}
    usage = context.roles.usage()["judge"]
    assert (usage["requests"], usage["failed"]) == (6, 0), "the judge's requests are in the run's usage"
    for row in rows:
        right = row["student_response"].strip() == str(int(row["messages"][0]["content"].split()[2]) + 1)
        assert right == (row["preference"] > 1.99)
    summary = summary_of(context)
    assert summary.mean == pytest.approx(summary.metrics["win_rate"].value, abs=1e-3)
    assert summary.metrics["win_rate"].standard_error is not None and summary.rows == 6
    assert "length_controlled_win_rate" not in summary.metrics
