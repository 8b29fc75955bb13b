"""Verifiers: their scores replace the judge's for the rows that they can grade, and for no others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tapir_ray.data.schemas import INSTRUCTIONS
from tapir_ray.errors import InputError
from tapir_ray.transforms.judge import JudgeRow, judge
from tapir_ray.transforms.verifiers import load_verifiers, verify
from tapir_ray.transforms.verifiers.reference_number import final_number, reference_number
from tests.llm.endpoint import running
from tests.transforms.asking import config_for, dataset, directly, instruction, opened

ONE_WORD = "tests.transforms.test_verifiers:one_word"


def one_word(row: Mapping[str, Any], answer: str) -> float | None:
    """A user's verifier: an answer to a spelling question is one word."""
    if row["task"] != "Spelling":
        return None
    return 10.0 if len(answer.split()) == 1 else 1.0


def eleven(row: Mapping[str, Any], answer: str) -> float | None:
    return 11.0


def row_of(reference: object, **values: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(INSTRUCTIONS.names),
        **instruction("q", meta=json.dumps({"reference": reference})),
        **values,
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"), ("So it is 6.\n#### 42", "42"), (r"First \boxed{7}, then \boxed{1,042.50}.", "1042.5"),
        ("$42$", "42"), ("-3.", "-3"), ("#### 5\n#### 6\n", "6"),
        ("It is 42", None), ("42 apples", None), ("", None), (r"\boxed{x}", None), ("inf", None), ("1,23", None),
        ("#### 42 or 43", None), (r"\boxed{\frac{1}{2}}", None),
    ],
)  # fmt: skip
def test_a_final_number_is_read_only_if_it_is_unambiguous(text: str, number: str | None) -> None:
    found = final_number(text)
    assert (None if found is None else float(found)) == (None if number is None else float(number))


def test_an_answer_is_graded_by_the_rows_reference() -> None:
    assert [reference_number(row_of("#### 42"), text) for text in ("42.0", "#### 41", "about 42")] == [10.0, 1.0, None]
    assert reference_number(row_of(42), "42") == 10.0
    assert reference_number(row_of(None), "42") is reference_number(row_of("blue"), "42") is None
    assert reference_number({**row_of(42), "meta": None}, "42") is None, "generated rows have no meta"


def test_the_first_verifier_that_grades_both_answers_scores_the_row() -> None:
    verifiers = load_verifiers([ONE_WORD, "reference_number"])
    row = row_of(42, task="Spelling")
    found = verify(verifiers, row, "forty-two", "it is 42")
    assert found is not None
    assert (found.verifier, found.teacher_score, found.student_score) == (ONE_WORD, 10.0, 1.0)
    other = verify(verifiers, {**row, "task": "Math"}, "#### 42", "#### 7")
    assert other is not None and (other.verifier, other.student_score) == ("reference_number", 1.0)
    assert verify(verifiers, {**row, "task": "Math"}, "#### 42", "seven") is None, "only one of two answers is graded"


def test_an_unknown_verifier_or_a_score_of_11_is_named() -> None:
    with pytest.raises(InputError, match=r"judge\.verifiers: unknown name 'number'; give one of reference_number"):
        load_verifiers(["number"])
    spec = "tests.transforms.test_verifiers:eleven"
    with pytest.raises(ValueError, match=r"eleven returned 11\.0; return None or a score from 1 to 10"):
        verify(load_verifiers([spec]), row_of(1), "a", "b")


def test_the_judge_is_asked_only_about_rows_without_a_verifier(ray_local: None) -> None:
    """Of four rows each verifier scores one, and the judge scores two."""
    rows = [
        row_of(None, task="Spelling", response="cat", student_response="the cat"),
        row_of(42, response="#### 42", student_response="#### 42"),
        row_of(42, response="#### 42", student_response="perhaps 42"),
        row_of(None, response="#### 42", student_response="#### 42"),
    ]
    for number, row in enumerate(rows):
        row["instruction_id"] = str(number)
    with running(lambda body, attempt: "Scores: 8 6") as seen:
        settings = {"repeat_share": 0.0, "both_orders": False, "verifiers": [ONE_WORD, "reference_number"]}
        config = config_for(seen.url, judge=settings)
        with opened(config) as roles:
            found = sorted(judge(dataset(rows), config, roles, 0).take_all(), key=lambda row: row["instruction_id"])
    assert len(seen.requests) == 2
    assert [row["scored_by"] for row in found] == [ONE_WORD, "reference_number", "judge", "judge"]
    assert [(row["teacher_score"], row["student_score"]) for row in found] == [(10, 1), (10, 10), (8, 6), (8, 6)]
    assert {row["difficulty"] for row in found} == {None}, "the difficulty measure writes it"
    assert found[0]["student_response_chars"] == 7 and found[0]["status"] == "ok"


def test_without_verifiers_every_row_is_judged() -> None:
    with running(lambda body, attempt: "Scores: 8 6") as seen:
        config = config_for(seen.url, judge={"repeat_share": 0.0, "both_orders": False})
        (row,) = directly(JudgeRow.of(config, 0), [row_of(42, response="#### 42", student_response="#### 42")], config)
    assert len(seen.requests) == 1 and row["scored_by"] == "judge"
