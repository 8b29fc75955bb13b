"""Preference between the file's answer and the teacher's: the better one is kept, and nothing else is asked."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.judge import JudgeRow
from tapir_ray.transforms.judge_question import Questions
from tapir_ray.transforms.prefer import PreferRow
from tests.llm.endpoint import running
from tests.transforms.asking import LastRequests, config_for, directly, instruction


def judge(body: dict[str, Any], attempt: int) -> str:
    """Gives a point for each letter of an answer, in the order of the prompt."""
    content = body["messages"][-1]["content"]
    found = [re.search(rf"<answer_{n} id=\w+>\n(.*?)\n</answer_{n} id=", content, re.DOTALL) for n in (1, 2)]
    one, two = (min(10, len(match[1])) for match in found if match)
    return f"Scores: {one} {two}"


def preferred(row: dict[str, Any], meter: LastRequests | None = None) -> tuple[dict[str, Any], int]:
    with running(judge) as seen:
        config = config_for(seen.url)
        function = PreferRow(JudgeRow(Questions(Prompts()), config.judge, 0))
        (made,) = directly(function, [instruction("q", **row)], config, meter)
    return made, len(seen.requests)


@pytest.mark.parametrize(
    ("new", "old", "stays", "which"),
    [("longer", "abc", "longer", "new"), ("ab", "abcd", "abcd", "old"), ("same", "tied", "tied", "old")],
)
def test_the_better_answer_is_kept(new: str, old: str, stays: str, which: str) -> None:
    row, requests = preferred({"response": new, "other_response": old, "teacher_model": "t", "sampling": "{}"})
    assert (row["response"], row["preferred"], row["status"]) == (stays, which, "ok")
    assert {row["response"], row["other_response"]} == {new, old}
    assert (row["new_score"], row["old_score"]) == (len(new), len(old))
    # Columns about the teacher's answer are empty next to the old answer.
    assert (row["teacher_model"], row["sampling"]) == (("t", "{}") if which == "new" else (None, None))
    assert requests == 2, "both orders"


OPENAI = (
    "BadRequestError: Error code: 400 - {'error': {'message': 'Your input exceeds the context window of this model.', "
    "'code': 'context_length_exceeded'}}"
)
VLLM = (
    "BadRequestError: Error code: 400 - {'error': {'message': \"This model's maximum context length is 64 tokens.\", "
    "'code': 400}}"
)
OTHER = "BadRequestError: Error code: 400 - {'error': {'message': 'temperature is not supported', 'code': 400}}"


@pytest.mark.parametrize(("status", "reason"), [("filtered", "refused"), ("failed", OPENAI), ("failed", VLLM)])
def test_an_unusable_answer_loses_without_a_request(status: str, reason: str) -> None:
    row, requests = preferred({"response": None, "other_response": "old", "status": status, "reason": reason})
    assert (row["response"], row["status"], row["reason"], row["preferred"]) == ("old", "ok", None, "old")
    assert requests == 0


@pytest.mark.parametrize(
    "row",
    [
        {"response": "new", "other_response": None},
        {"response": None, "other_response": "old", "status": "failed", "reason": "timeout"},
        # Every row may have this error, and a dataset without any new answer would look finished.
        {"response": None, "other_response": "old", "status": "failed", "reason": OTHER},
        {"response": "a", "other_response": None, "status": "filtered", "reason": "rebalanced"},
    ],
)
def test_rows_that_cannot_be_compared_pass_unchanged(row: dict[str, Any]) -> None:
    made, requests = preferred(row)
    assert made == instruction("q", **row) and requests == 0


def test_two_equal_answers_count_as_one() -> None:
    row, requests = preferred({"response": "same", "other_response": "same"})
    assert (row["response"], row["other_response"], row.get("preferred")) == ("same", None, None) and requests == 0


def test_a_row_cut_off_by_the_budget_is_not_finished() -> None:
    row, _ = preferred({"response": "new", "other_response": "old"}, LastRequests(1))
    assert (row["status"], row["reason"]) == ("failed", "budget_used_up")
