"""The teacher's answers: styled, gated by the judge, and filtered with a reason if unusable."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tapir_ray.data import schemas
from tapir_ray.errors import InputError
from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.annotators import annotation
from tapir_ray.transforms.judge_question import Questions
from tapir_ray.transforms.respond import RespondRow, respond
from tests.llm.endpoint import Choice, running
from tests.transforms.asking import LastRequests, config_for, dataset, directly, instruction, opened

STYLES = {"Math": "Step by step."}
WARM = {"sampling": {"temperature": 1.0}}


def teacher(body: dict[str, Any], attempt: int) -> str | Choice:
    """Answers with its style; as a judge it gives a point for each letter of an answer."""
    *_, last = body["messages"]
    judged = re.search(r"<answer id=\w+>\n(.*?)\n</answer id=", last["content"], re.DOTALL)
    if judged and "judge" in last["content"]:
        return f"Score: {min(10, len(judged[1]))}"
    if judged:
        return f"rewritten {judged[1]}"
    if "cut?" in last["content"]:
        return Choice("half", "length")
    if "refuse?" in last["content"]:
        return Choice("", "content_filter")
    if "short?" in last["content"]:
        return "ab" * (1 + body["seed"] % 3)
    system = body["messages"][0]["content"] if body["messages"][0]["role"] == "system" else "plain"
    return Choice(f" {system} ", message={"reasoning_content": "thoughts"})


def test_answers_have_the_style_of_their_task(ray_local: None) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [
        instruction("styled?", task="Math"),
        instruction("own system?", messages=[system, {"role": "user", "content": "own system?"}], instruction_id="own"),
        instruction("no style?", task="Art"),
        instruction("cut?"),
        instruction("refuse?"),
        instruction("done?", response="mine"),
        instruction("filtered?", status="filtered", reason="near_duplicate"),
    ]
    with running(teacher) as seen:
        config = config_for(seen.url, teacher={"reasoning": "keep"})
        with opened(config) as roles:
            answered = annotation("respond")(dataset(rows, schemas.GENERATED_ROWS), config, roles, STYLES)
            by_id = {row["instruction_id"]: row for row in answered.take_all()}
    styled, own, plain, cut, refused, done, filtered = (by_id[row["instruction_id"]] for row in rows)
    assert styled["response"] == "Task type: Math.\nAnswering style: Step by step."
    assert own["response"] == "Task type: Math.\nAnswering style: Step by step.\n\nBe brief."
    assert (plain["response"], plain["style"], styled["style"]) == ("plain", None, "Step by step.")
    assert (styled["teacher_model"], styled["reasoning"], styled["status"]) == ("m-2026", "thoughts", "ok")
    sent = next(body for body in seen.requests if "styled?" in body["messages"][-1]["content"])
    assert styled["prompt_hash"] == schemas.prompt_hash(sent["messages"])
    assert json.loads(styled["sampling"])["seed"] == sent["seed"]
    assert (cut["status"], cut["reason"], cut["response"]) == ("filtered", "cut_off", None)
    assert (refused["status"], refused["reason"]) == ("filtered", "refused")
    assert done["response"] == "mine" and filtered["reason"] == "near_duplicate"
    assert len(seen.requests) == 5


def test_second_pass_rewrites_a_plain_answer() -> None:
    with running(teacher) as seen:
        config = config_for(seen.url, rewrite={"mode": "second_pass"})
        (row,) = directly(RespondRow(Questions(Prompts()), config, STYLES), [instruction("q", response=None)], config)
    assert row["response"] == "rewritten  plain" and row["prompt_hash"] == schemas.prompt_hash(
        seen.requests[1]["messages"]
    )
    assert "<style>\nStep by step.\n</style>" in seen.requests[1]["messages"][0]["content"]


def test_an_existing_answer_is_rewritten_and_not_asked_for() -> None:
    """Rows without a style or without an answer are asked."""
    rows = [
        instruction("q", response=None, other_response="mine"),
        instruction("q", response=None, other_response="mine", task="Art"),
        instruction("q", response=None, other_response=None),
    ]
    with running(teacher) as seen:
        config = config_for(seen.url)
        found = directly(RespondRow(Questions(Prompts()), config, STYLES, "other_response"), rows, config)
    asked = [body["messages"][-1]["content"] for body in seen.requests]
    assert [row["response"] for row in found] == [
        "rewritten mine", "plain", "Task type: Math.\nAnswering style: Step by step."
    ]  # fmt: skip
    assert len(asked) == 3 and sum("<style>\nStep by step.\n</style>" in content for content in asked) == 1
    assert found[0]["other_response"] == "mine" and found[0]["style"] == "Step by step."


def test_the_best_of_several_samples_is_kept() -> None:
    with running(teacher) as seen:
        config = config_for(seen.url, respond={"samples": 6}, teacher={"sampling": {"temperature": 1.0}})
        (row,) = directly(RespondRow(Questions(Prompts()), config, {}), [instruction("short?", response=None)], config)
    lengths = {2 * (1 + body["seed"] % 3) for body in seen.requests if "judge" not in body["messages"][0]["content"]}
    assert len(row["response"]) == max(lengths) == row["answer_score"] and len(lengths) > 1
    assert len(seen.requests) == 12


def test_a_sample_without_scores_does_not_drop_the_others() -> None:
    """One unparseable verdict once dropped every answer of the row."""

    def forgetful(body: dict[str, Any], attempt: int) -> str | Choice:
        content = body["messages"][-1]["content"]
        if "judge" in content and ("\nabab\n" in content or "nothing?" in content):
            return "I would rather not say."
        return teacher(body, attempt)

    rows = [instruction("short?", response=None), instruction("short? nothing?", response=None)]
    with running(forgetful) as seen:
        config = config_for(seen.url, respond={"samples": 6}, judge={"parse_attempts": 1}, teacher=WARM)
        kept, lost = directly(RespondRow(Questions(Prompts()), config, {}), rows, config)
    answers = {2 * (1 + body["seed"] % 3) for body in seen.requests if "judge" not in body["messages"][0]["content"]}
    assert answers == {2, 4, 6}
    assert (kept["status"], kept["response"], kept["answer_score"]) == ("ok", "ababab", 6.0)
    assert (lost["status"], lost["reason"], lost["response"]) == ("failed", "unparseable_scores", None)


@pytest.mark.parametrize("requests", [1, 4])
def test_a_row_cut_off_by_the_budget_is_not_finished(requests: int) -> None:
    """It has one of three answers, or all answers and one of their scores."""
    with running(teacher) as seen:
        config = config_for(seen.url, respond={"samples": 3}, teacher=WARM)
        asked = [instruction("short?", response=None)]
        (row,) = directly(RespondRow(Questions(Prompts()), config, {}), asked, config, LastRequests(requests))
    assert len(seen.requests) == requests
    assert (row["status"], row["reason"], row["response"]) == ("failed", schemas.BUDGET_USED_UP, None)


@pytest.mark.parametrize("mode", ["combined", "second_pass"])
def test_a_refusal_in_words_is_filtered_before_further_requests(mode: str) -> None:
    with running(lambda body, attempt: "I’m sorry, but I can’t help with that.") as seen:
        config = config_for(seen.url, rewrite={"mode": mode}, respond={"min_score": 5.0})
        (row,) = directly(RespondRow(Questions(Prompts()), config, STYLES), [instruction("q", response=None)], config)
    assert (row["status"], row["reason"], row["response"]) == ("filtered", "refused", None)
    assert len(seen.requests) == 1


def test_a_task_that_asks_to_decline_keeps_its_refusal() -> None:
    with running(lambda body, attempt: "I can't help with that.") as seen:
        row = instruction("Insult him.", response=None, task="Toxicity")
        (row,) = directly(
            RespondRow(Questions(Prompts()), config_for(seen.url), {"Toxicity": "Decline."}),
            [row],
            config_for(seen.url),
        )
    assert (row["status"], row["response"]) == ("ok", "I can't help with that.")


def test_samples_that_are_not_refusals_are_used() -> None:
    def moody(body: dict[str, Any], attempt: int) -> str:
        if "judge" in body["messages"][0]["content"]:
            return "Score: 5"
        return "As an AI language model, I cannot sing." if body["seed"] % 2 else "La la la."

    with running(moody) as seen:
        config = config_for(seen.url, respond={"samples": 6}, teacher=WARM)
        (row,) = directly(RespondRow(Questions(Prompts()), config, {}), [instruction("q", response=None)], config)
    odd = {body["seed"] % 2 for body in seen.requests if "judge" not in body["messages"][0]["content"]}
    assert odd == {0, 1} and (row["status"], row["response"]) == ("ok", "La la la.")


def test_the_judge_gates_answers() -> None:
    rows = [instruction("short?", response=None), instruction("a longer answer", response=None)]
    with running(teacher) as seen:
        config = config_for(seen.url, respond={"min_score": 8.0})
        short, long = directly(RespondRow(Questions(Prompts()), config, STYLES), rows, config)
    assert (short["status"], short["reason"]) == ("filtered", "below_min_score") and short["answer_score"] < 8
    assert (long["status"], long["answer_score"]) == ("ok", 10.0)


def test_seed_data_keeps_its_own_columns(ray_local: None) -> None:
    rows = [instruction("q?", license="MIT")]
    with running(teacher) as seen:
        config = config_for(seen.url)
        with opened(config) as roles:
            filled = respond(dataset(rows, schemas.INSTRUCTIONS), config, roles, STYLES, schema=schemas.INSTRUCTIONS)
            (row,) = filled.take_all()
    assert list(row) == schemas.INSTRUCTIONS.names and row["license"] == "MIT" and row["response"]


def test_an_unknown_annotation_is_named() -> None:
    with pytest.raises(InputError, match=r"expand\.annotation.*nothing"):
        annotation("nothing")
    assert annotation("tapir_ray.transforms.respond:respond") is respond
