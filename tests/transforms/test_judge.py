"""The judge stage over real HTTP: signs, both orders, repeats, and replies without scores; the parser by property."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.data import schemas
from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.judge import JudgeRow, judge
from tapir_ray.transforms.judge_question import Questions
from tapir_ray.transforms.verdict import parse_scores
from tests.llm.endpoint import Answer, Choice, Fault, running
from tests.transforms.asking import LastRequests, config_for, dataset, directly, instruction, opened

SCORE = st.one_of(st.integers(1, 10), st.decimals(1, 10, places=1))


FORMS = [
    "Scores: {} {}",
    "**Scores: {} {}**",
    "scores: {}, {}",
    "  Scores:{}/10 {}/10",
    "Scores: {} and {}.",
    "# Score: <{}> <{}>",
    "Scores: {} out of 10, {} out of 10",
    "**Scores:** {} | {}",
    "Scores: [{}] [{}] (the first is better)",
]


@given(a=SCORE, b=SCORE, before=st.text(max_size=60), form=st.sampled_from(FORMS))
def test_the_line_of_scores_is_found(a: Any, b: Any, before: str, form: str) -> None:
    text = f"Scores: 1 1\n{before}\n{form.format(a, b)}\n"
    assert parse_scores(text, 2) == (float(a), float(b))


@given(st.text(max_size=200))
def test_no_text_gives_scores_outside_the_scale(text: str) -> None:
    for count in (1, 2):
        scores = parse_scores(text, count)
        assert scores is None or (len(scores) == count and all(1 <= score <= 10 for score in scores))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8 9",
        "Scores: 8",
        "Scores: 8 9 7",
        "Scores: 11 3",
        "Scores: 0 3",
        "Scores: eight nine",
        "Scores: 5 5\nScores: 0 9",
    ],
)
def test_doubtful_scores_are_none(text: str) -> None:
    assert parse_scores(text, 2) is None


def test_a_single_score_is_read() -> None:
    assert parse_scores("It is fine.\n**Score: 7.5**", 1) == (7.5,)
    assert parse_scores("Score: 8/10", 1) == (8.0,)
    assert parse_scores("Score: 8 9", 1) is None


def length_judge(body: dict[str, Any], attempt: int) -> str:
    """Gives one point for each letter of an answer, and one more for the first answer."""
    prompt = body["messages"][0]["content"]
    answers = [text.strip() for text in re.findall(r"<answer(?:_\d)? id=\w+>\n(.*?)\n</answer", prompt, re.DOTALL)]
    scores = [max(1, len(answer)) for answer in answers]
    if len(scores) == 1:
        return f"Fine.\nScore: {scores[0]}"
    return f"Fine.\nScores: {scores[0] + 1} {scores[1]}"


def mfd_of(row: dict[str, Any]) -> float:
    """Returns the row's MFD; the judge itself writes no difficulty."""
    assert row.get("difficulty") is None
    return row["teacher_score"] - row["student_score"]


def answered(count: int = 6, **changes: Any) -> list[dict[str, Any]]:
    return [
        instruction(
            f"Question {number}?", response="four", student_response="ab", finish_reason="stop", times_trained=2
        )
        | changes
        for number in range(count)
    ]


def judged(answer: Answer, rows: list[dict[str, Any]], **judge_settings: Any) -> tuple[dict[str, dict[str, Any]], Any]:
    """Returns scored rows by id, and the endpoint's log."""
    with running(answer) as seen:
        config = config_for(seen.url, judge=judge_settings)
        with opened(config) as roles:
            table = judge(dataset(rows), config, roles, random_seed=3).take_all()
            seen.usage = roles.usage()
    assert len(table) == len(rows)
    return {row["instruction_id"]: row for row in table}, seen


def test_both_orders_cancel_the_bias_and_keep_the_gap(ray_local: None) -> None:
    rows, seen = judged(length_judge, answered(), repeat_share=0.0)
    for row in rows.values():
        assert (row["teacher_score"], row["student_score"], mfd_of(row)) == (4.5, 2.5, 2.0)
        assert row["position_gap"] == 2.0 and row["repeat_mfd"] is None and row["times_trained"] == 2
        assert (row["response_chars"], row["student_response_chars"]) == (4, 2)
        assert row["status"] == "ok"
    assert len(seen.requests) == 12 and seen.usage["judge"]["requests"] == 12
    assert seen.usage["teacher"]["requests"] == 0


def test_one_order_keeps_the_bias(ray_local: None) -> None:
    rows, seen = judged(length_judge, answered(3), both_orders=False, repeat_share=1.0)
    for row in rows.values():
        assert mfd_of(row) == 3.0 and row["position_gap"] is None and row["repeat_mfd"] == 3.0
    assert len(seen.requests) == 6 and len({body["seed"] for body in seen.requests}) == 6


def test_a_pointwise_judge_scores_each_answer_and_an_empty_one_gets_1(ray_local: None) -> None:
    rows, seen = judged(length_judge, answered(2, student_response=""), mode="pointwise", repeat_share=0.0)
    assert all((row["teacher_score"], row["student_score"]) == (4.0, 1.0) for row in rows.values())
    assert len(seen.requests) == 4


def test_replies_without_scores_are_asked_again_and_then_fail(ray_local: None) -> None:
    seeds_seen: dict[str, set[int]] = {}

    def forgetful(body: dict[str, Any], attempt: int) -> str:
        prompt = body["messages"][0]["content"]
        seeds = seeds_seen.setdefault(prompt, set())
        seeds.add(body["seed"])
        assert body["temperature"] == (0.0 if len(seeds) == 1 else 0.7)
        if "Question 0?" in prompt:
            return "I would rather not say."
        return "Scores: 6 5" if len(seeds) > 1 else "Scores: many"

    rows, _ = judged(forgetful, answered(2), repeat_share=0.0, parse_attempts=3)
    first, second = (rows[row["instruction_id"]] for row in answered(2))
    assert (first["status"], first["reason"], first["teacher_score"]) == ("failed", "unparseable_scores", None)
    assert second["status"] == "ok" and mfd_of(second) == 0.0
    assert sorted(len(seeds) for seeds in seeds_seen.values()) == [2, 2, 3, 3]


def test_a_judge_with_a_temperature_keeps_it_for_repeated_questions() -> None:
    with running(lambda body, attempt: "?") as seen:
        config = config_for(seen.url, judge={"sampling": {"temperature": 1.0}, "both_orders": False})
        directly(JudgeRow(Questions(Prompts()), config.judge, 0), answered(1), config)
    assert {body["temperature"] for body in seen.requests} == {1.0} and len(seen.requests) >= 3


def test_rows_without_two_answers_pass_unchanged_and_failures_are_rows(ray_local: None) -> None:
    rows = [
        instruction("No response?", student_response="a"),
        instruction("Filtered?", response="b", status="filtered", reason="duplicate"),
        instruction("Judged?", response="b", student_response="a"),
    ]
    scored, seen = judged(lambda body, n: Fault(400, "too long"), rows)
    untouched = scored[rows[0]["instruction_id"]], scored[rows[1]["instruction_id"]]
    assert [row["status"] for row in untouched] == ["ok", "filtered"] and untouched[1]["reason"] == "duplicate"
    failed = scored[rows[2]["instruction_id"]]
    assert failed["status"] == "failed" and failed["reason"].startswith("BadRequestError: ")
    assert seen.usage["judge"]["failed"] == len(seen.requests) == 2
    assert list(failed) == schemas.SCORED.names


def test_a_row_without_budget_for_its_second_judgement_is_not_finished() -> None:
    with running(length_judge) as seen:
        config = config_for(seen.url, judge={"repeat_share": 1.0, "both_orders": False})
        row_of = JudgeRow(Questions(Prompts()), config.judge, 0)
        (row,) = directly(row_of, answered(1), config, LastRequests(1))
        (whole,) = directly(row_of, answered(1), config, LastRequests(2))
    assert (row["status"], row["reason"], row.get("teacher_score")) == ("failed", schemas.BUDGET_USED_UP, None)
    assert whole["status"] == "ok" and mfd_of(whole) == whole["repeat_mfd"] is not None


@pytest.mark.parametrize("mode", ["pairwise", "pointwise"])
def test_a_truncated_verdict_is_asked_again(mode: str) -> None:
    """`Score: 1` may be the beginning of a 10."""

    def cut(body: dict[str, Any], attempt: int) -> Choice:
        first = body["temperature"] == 0.0
        return Choice("Scores: 1 1\nScore: 1" if first else length_judge(body, 0), "length" if first else "stop")

    with running(cut) as seen:
        config = config_for(seen.url, judge={"mode": mode, "both_orders": False, "repeat_share": 0.0})
        (row,) = directly(JudgeRow(Questions(Prompts()), config.judge, 0), answered(1), config)
    assert mfd_of(row) == (3.0 if mode == "pairwise" else 2.0)
    with running(lambda body, n: Choice("Scores: 9 3\nScore: 9", "length")) as seen:
        config = config_for(seen.url, judge={"mode": mode, "both_orders": False, "repeat_share": 0.0})
        (row,) = directly(JudgeRow(Questions(Prompts()), config.judge, 0), answered(1), config)
    assert (row["status"], row["reason"], row.get("teacher_score")) == ("failed", "unparseable_scores: cut_off", None)


@pytest.mark.parametrize(("structured", "sent"), [("auto", True), ("on", True), ("off", False)])
def test_the_judge_is_asked_for_json_unless_structured_is_off(structured: str, sent: bool) -> None:
    with running(lambda body, n: '{"reasoning": "Scores: 1 1", "answer_1": 9, "answer_2": 4}') as seen:
        config = config_for(seen.url, judge={"structured": structured, "both_orders": False, "repeat_share": 0.0})
        (row,) = directly(JudgeRow(Questions(Prompts()), config.judge, 0), answered(1), config)
    assert mfd_of(row) == 5.0 and ["response_format" in body for body in seen.requests] == [sent]


def refuses(body: dict[str, Any], attempt: int) -> str | Fault:
    if "response_format" in body:
        return Fault(400, "Unsupported parameter: 'response_format'")
    return length_judge(body, attempt)


def test_an_endpoint_that_refuses_json_loses_no_row_and_gets_plain_requests_from_the_next_stage(
    ray_local: None,
) -> None:
    with running(refuses) as seen:
        config = config_for(seen.url, judge={"repeat_share": 0.0}, resources={"request_workers": 1})
        with opened(config) as roles:
            assert roles.found_plain() == []
            first = judge(dataset(answered(6)), config, roles, random_seed=3).take_all()
            assert roles.found_plain() == ["judge"] and roles.found_plain() == []
            before = len(seen.requests)
            second = judge(dataset(answered(6)), config, roles, random_seed=4).take_all()
            failed = roles.usage()["judge"]["failed"]
    assert {row["status"] for row in first + second} == {"ok"} and failed == 0
    assert not any("response_format" in body for body in seen.requests[before:])


def test_a_refused_format_fails_the_row_if_json_is_required() -> None:
    with running(refuses) as seen:
        config = config_for(seen.url, judge={"structured": "on", "repeat_share": 0.0})
        (row,) = directly(JudgeRow(Questions(Prompts()), config.judge, 0), answered(1), config)
    assert row["status"] == "failed" and "response_format" in row["reason"]


def test_a_repeat_is_asked_at_a_temperature() -> None:
    def noisy(body: dict[str, Any], attempt: int) -> str:
        return f"Scores: {6 if body['temperature'] == 0.7 else 8} 5"

    with running(noisy) as seen:
        config = config_for(seen.url, judge={"repeat_share": 1.0, "both_orders": False})
        (row,) = directly(JudgeRow(Questions(Prompts()), config.judge, 0), answered(1), config)
    assert sorted(body["temperature"] for body in seen.requests) == [0.0, 0.7]
    assert (mfd_of(row), row["repeat_mfd"], row["repeat_same"]) == (3.0, 1.0, False)


def test_a_repeat_that_cannot_differ_is_not_asked_and_an_identical_one_is_marked() -> None:
    with running(lambda body, n: "Scores: 8 5") as seen:
        cold = config_for(seen.url, judge={"repeat_share": 1.0, "both_orders": False, "repeat_temperature": 0.0})
        (row,) = directly(JudgeRow(Questions(Prompts()), cold.judge, 0), answered(1), cold)
        assert len(seen.requests) == 1 and row.get("repeat_mfd") is None
        fixed = config_for(
            seen.url, judge={"repeat_share": 1.0, "both_orders": False}, teacher={"extra_body": {"temperature": 0}}
        )
        directly(JudgeRow(Questions(Prompts()), fixed.judge, 0), answered(1), fixed)
        assert len(seen.requests) == 2, "the endpoint's own temperature of 0 wins"
        warm = config_for(seen.url, judge={"repeat_share": 1.0, "both_orders": False})
        (row,) = directly(JudgeRow(Questions(Prompts()), warm.judge, 0), answered(1), warm)
    assert (row["repeat_mfd"], row["repeat_same"]) == (3.0, True)


def test_the_judges_reply_is_kept_for_expansions_by_feedback_alone() -> None:
    with running(lambda body, attempt: "The second is wrong.\nScores: 8 6") as seen:
        for prompt, kept in (("feedback", "The second is wrong.\nScores: 8 6"), ("like", None)):
            config = config_for(seen.url, judge={"repeat_share": 0.0}, expand={"prompt": prompt})
            (row,) = directly(JudgeRow.of(config, 0), [instruction("q", response="a", student_response="b")], config)
            assert row.get("judge_reasons") == kept
