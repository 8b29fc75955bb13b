"""`judge.mode: rubric` over real HTTP: weighted means, both orders, criteria by task, and replies without a rubric."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.simulator.options import Options
from tapir_ray.simulator.process import running as simulator
from tapir_ray.transforms.judge import JudgeRow, judge
from tapir_ray.transforms.judge_question import Questions
from tapir_ray.transforms.respond import RespondRow
from tests.llm.endpoint import Fault, running
from tests.transforms.asking import config_for, dataset, directly, instruction, opened

MARKS = {"good": {"result": 9, "steps": 6, "clarity": 3}, "bad": {"result": 3, "steps": 3, "clarity": 9}}
"""Weights of Math are 3, 2 and 1: good has (27 + 12 + 3) / 6 = 7, bad (9 + 6 + 9) / 6 = 4."""


def rubric_judge(body: dict[str, Any], attempt: int) -> str:
    """Gives the marks of MARKS, and one more for clarity to the first of two answers."""
    prompt = body["messages"][0]["content"]
    answers = re.findall(r"<(answer(?:_\d)?) id=\w+>\n(.*?)\n</answer", prompt, re.DOTALL)
    reply: dict[str, Any] = {name: dict(MARKS[text]) for name, text in answers}
    if len(answers) > 1:
        reply["answer_1"]["clarity"] += 1
    return json.dumps({"reasoning": "So.", **reply})


def row(**values: Any) -> dict[str, Any]:
    return instruction("q", response="good", student_response="bad", **values)


def rubric_config(url: str, **settings: Any) -> Any:
    return config_for(url, judge={"mode": "rubric", "repeat_share": 0.0, **settings})


def test_the_score_is_the_weighted_mean_of_both_orders() -> None:
    with running(rubric_judge) as seen:
        config = rubric_config(seen.url)
        (judged,) = directly(JudgeRow.of(config, 0), [row()], config)
    # First order: (27 + 12 + 4) / 6 and 4; second: 7 and (9 + 6 + 10) / 6. Mean: 7 1/12 and 4 1/12.
    assert judged["teacher_score"] == pytest.approx(7 + 1 / 12, abs=1e-6)
    assert judged["student_score"] == pytest.approx(4 + 1 / 12, abs=1e-6)
    assert judged["position_gap"] == pytest.approx(1 / 3, abs=1e-5), "19/6 in the first order, 17/6 in the second"
    assert json.loads(judged["criterion_scores"]) == {
        "teacher": {"result": 9.0, "steps": 6.0, "clarity": 3.5},
        "student": {"result": 3.0, "steps": 3.0, "clarity": 9.5},
    }
    assert judged["scored_by"] == "judge" and len(seen.requests) == 2
    schema = seen.requests[0]["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]["answer_2"]["properties"]) == ["result", "steps", "clarity"]
    assert "- steps: Does each step follow" in seen.requests[0]["messages"][0]["content"]


def test_the_criteria_are_those_of_the_rows_task(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "criteria: {clarity: {question: Clear}}\n"
        "tasks: {Math: {weight: 1, criteria: {result: {weight: 3, question: Right}, clarity: {question: Clear}}}}"
    )
    with running(rubric_judge) as seen:
        config = config_for(
            seen.url,
            judge={"mode": "rubric", "both_orders": False, "repeat_share": 0.0},
            curriculum={"tasks": str(own)},
        )
        of_math, of_other = directly(JudgeRow.of(config, 0), [row(), row(task="Cooking")], config)
    assert (of_math["teacher_score"], of_math["student_score"]) == (7.75, 4.5)  # (27 + 4) / 4 and (9 + 9) / 4
    assert (of_other["teacher_score"], of_other["student_score"]) == (4.0, 9.0)
    assert json.loads(of_other["criterion_scores"]) == {"teacher": {"clarity": 4.0}, "student": {"clarity": 9.0}}


def test_a_reply_without_all_criteria_is_asked_again_and_then_fails() -> None:
    def late(body: dict[str, Any], attempt: int) -> str:
        return "Scores: 9 4" if body["temperature"] == 0.0 else rubric_judge(body, attempt)

    with running(late) as seen:
        config = rubric_config(seen.url, both_orders=False)
        (judged,) = directly(JudgeRow.of(config, 0), [row()], config)
        assert judged["status"] == "ok" and len(seen.requests) == 2
    with running(lambda body, n: "Scores: 9 4") as seen:
        config = rubric_config(seen.url, both_orders=False)
        (judged,) = directly(JudgeRow.of(config, 0), [row()], config)
        assert (judged["status"], judged["reason"], len(seen.requests)) == ("failed", "unparseable_scores", 3)


def test_an_endpoint_that_refuses_the_schema_is_asked_in_plain_text() -> None:
    def old(body: dict[str, Any], attempt: int) -> str | Fault:
        if "response_format" in body:
            return Fault(400, "Unsupported parameter: 'response_format'")
        return f"Here is my verdict.\n```json\n{rubric_judge(body, attempt)}\n```"

    with running(old) as seen:
        config = rubric_config(seen.url, both_orders=False)
        (judged,) = directly(JudgeRow.of(config, 0), [row()], config)
    assert judged["student_score"] == 4.0 and judged["status"] == "ok"


def test_one_answer_is_judged_by_the_same_rubric() -> None:
    def both(body: dict[str, Any], attempt: int) -> str:
        return rubric_judge(body, attempt) if "<criteria>" in body["messages"][-1]["content"] else "bad"

    with running(both) as seen:
        config = config_for(seen.url, judge={"mode": "rubric"}, respond={"min_score": 4.5})
        function = RespondRow(Questions.of(config), config, {})
        (answered,) = directly(function, [instruction("q", response=None)], config)
        assert (answered["answer_score"], answered["reason"]) == (4.0, "below_min_score")
        config = rubric_config(seen.url, verifiers=[f"{__name__}:wrong_or_unknown"])
        (judged,) = directly(JudgeRow.of(config, 0), [row()], config)
    assert (judged["teacher_score"], judged["student_score"]) == (7.0, 1.0), "the judge scores the teacher's alone"
    assert judged["scored_by"].endswith(", judge") and "criterion_scores" not in judged


def wrong_or_unknown(row: dict[str, Any], answer: str) -> float | None:
    return 1.0 if answer == "bad" else None


@pytest.mark.parametrize("refuses", [False, True])
def test_the_simulator_answers_with_and_without_the_schema(refuses: bool) -> None:
    question = "tom has 7 pens , finds 3 , loses 2 . how many pens now ?"
    pair = instruction(question, response="8", student_response="9")
    with simulator(Options(refuse_response_format=refuses)) as url:
        (judged,) = directly(JudgeRow.of(rubric_config(url), 0), [pair], rubric_config(url))
    assert (judged["teacher_score"], judged["student_score"], judged["position_gap"]) == (10.0, 1.0, 0.0)
    assert json.loads(judged["criterion_scores"])["student"] == {"result": 1.0, "steps": 1.0, "clarity": 1.0}


def test_the_pipeline_keeps_the_scores_by_criterion(ray_local: None) -> None:
    rows = [row(), row(status="failed", reason="empty"), {**row(), "response": None}]
    with running(rubric_judge) as seen:
        config = rubric_config(seen.url)
        with opened(config) as roles:
            found = judge(dataset(rows), config, roles, 0).take_all()
    assert [one["criterion_scores"] is None for one in found].count(True) == 2 and len(seen.requests) == 2
