"""Verifiers: their scores replace the judge's for the rows that they can grade, and for no others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tapir_ray.curriculum.difficulty import with_difficulty
from tapir_ray.curriculum.stats import table_stats
from tapir_ray.data.final_answer import final_number
from tapir_ray.data.schemas import INSTRUCTIONS, SCORED, conform
from tapir_ray.errors import InputError
from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.judge import JudgeRow, judge
from tapir_ray.transforms.judge_question import Questions
from tapir_ray.transforms.respond import RespondRow
from tapir_ray.transforms.verifiers import load_verifiers, verify
from tapir_ray.transforms.verifiers.ifeval import ifeval
from tapir_ray.transforms.verifiers.json_schema import json_schema
from tapir_ray.transforms.verifiers.math_verify import math_verify
from tapir_ray.transforms.verifiers.python_syntax import python_syntax
from tapir_ray.transforms.verifiers.reference_number import reference_number
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
    partly = verify(verifiers, {**row, "task": "Math"}, "#### 41", "seven")
    assert partly is not None and (partly.teacher_score, partly.student_score, partly.complete) == (1.0, None, False)


def test_an_unknown_verifier_or_a_score_of_11_is_named() -> None:
    with pytest.raises(InputError, match=r"judge\.verifiers: unknown name 'number'; give one of ifeval, json_schema"):
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
        shares = {"repeat_share": 0.0, "verified_share": 0.0}
        settings = {**shares, "both_orders": False, "verifiers": [ONE_WORD, "reference_number"]}
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


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("```python\ndef f(:\n    pass\n```", 1.0), ("```python\ndef f():\n    pass\n```", None),
        ("  ```py\n  x = [1, 2\n  ```", 1.0), ("```python\n>>> f(\n```", None), ("```js\nlet x = ;\n```", None),
        ("def f(:", None), ("```python\n%pip install x\n```", None), ("```python\nok = 1\n```\n```python\n)\n```", 1.0),
    ],
)  # fmt: skip
def test_broken_python_is_wrong_and_other_code_goes_to_the_judge(answer: str, score: float | None) -> None:
    assert python_syntax(row_of(None), answer) == score
    assert python_syntax({**row_of(None), **instruction("Fix this syntax error")}, answer) is None


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"name": "Ann"}', 10.0), ('Here:\n```json\n{"name": "Ann"}\n```\nDone.', 10.0), ('{"name": 1}', 1.0),
        ("no JSON", 1.0), ("```\n{}\n```\n```\n{}\n```", None),
    ],
)  # fmt: skip
def test_json_is_graded_by_the_schema_of_its_row(answer: str, score: float | None) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    assert json_schema({"meta": json.dumps({"json_schema": schema})}, answer) == score
    assert json_schema({"meta": json.dumps({"json_schema": json.dumps(schema)})}, answer) == score
    assert json_schema({"meta": None}, answer) is None


@pytest.mark.parametrize("schema", ["{broken", {"type": "no type"}, "[1]"])
def test_a_column_that_holds_no_schema_is_named(schema: object) -> None:
    with pytest.raises(ValueError, match="the column json_schema holds no JSON schema"):
        json_schema({"meta": json.dumps({"json_schema": schema})}, "{}")


def test_a_schema_cannot_reach_the_network() -> None:
    """A reference to another host must not be fetched."""
    row = {"meta": json.dumps({"json_schema": {"$ref": "http://127.0.0.1:9/schema.json"}})}
    with pytest.raises(Exception, match=r"Unresolvable|127"):
        json_schema(row, "{}")


@pytest.mark.parametrize(
    ("reference", "answer", "score"),
    [
        ("1/2", r"So \boxed{\frac{1}{2}}", 10.0), ("0.5", "The answer is 1/2", 10.0), ("42", "#### 41", 1.0),
        ("x^2+2x+1", r"\boxed{(x+1)^2}", 10.0), (r"2\sqrt{2}", r"\boxed{\sqrt{8}}", 10.0), ("42", "42 apples", None),
        ("blue", "blue", None), ("42", "It may be 42, but who knows.", None), ("9^{9^9}", r"\boxed{1}", None),
        (None, "42", None), ("42", "x" * 300, None),
    ],
)  # fmt: skip
def test_mathematical_answers_are_compared_as_expressions(reference: object, answer: str, score: float | None) -> None:
    pytest.importorskip("math_verify", reason="pip install 'tapir-ray[verifiers]'")
    assert math_verify(row_of(reference), answer) == score


def test_constraints_of_ifeval_give_the_share_that_is_followed() -> None:
    """One of two is followed: 1 + 9 / 2."""
    pytest.importorskip("lm_eval", reason="pip install 'tapir-ray[ifeval]'")
    names = ["punctuation:no_comma", "change_case:english_lowercase"]
    row = {**instruction("Say hi."), "meta": json.dumps({"instruction_id_list": names, "kwargs": [{}, {"n": None}]})}
    assert ifeval(row, "Hello there everybody") == 5.5
    assert ifeval(instruction("Say hi.", meta=None), "Hi") is None
    with pytest.raises(ValueError, match="unknown constraint no:such"):
        ifeval({**row, "meta": json.dumps({"instruction_id_list": ["no:such"], "kwargs": [{}]})}, "Hi")


BROKEN, RIGHT_CODE = "```python\ndef f(:\n```", "```python\ndef f(): pass\n```"


def test_an_answer_that_is_certainly_wrong_leaves_one_request_for_the_other() -> None:
    with running(lambda body, attempt: "Score: 7") as seen:
        config = config_for(seen.url, judge={"repeat_share": 0.0, "verifiers": ["python_syntax"]})
        row = row_of(None, response=RIGHT_CODE, student_response=BROKEN)
        (found,) = directly(JudgeRow.of(config, 0), [row], config)
    assert len(seen.requests) == 1, "instead of two, for both orders of both answers"
    assert (found["teacher_score"], found["student_score"]) == (7.0, 1.0)
    assert found["scored_by"] == "python_syntax, judge"


def test_a_share_of_the_verified_rows_is_judged_as_well_and_the_agreement_is_counted() -> None:
    """The judge says 8 and 6 for both rows. The verifier says 10 and 1 for one, which agrees, and 10 and 10."""
    rows = [
        row_of(42, response="#### 42", student_response=answer, instruction_id=answer) for answer in ("#### 7", "42")
    ]
    with running(lambda body, attempt: "Scores: 8 6") as seen:
        settings = {"verifiers": ["reference_number"], "both_orders": False}
        config = config_for(seen.url, judge={**settings, "verified_share": 1.0})
        found = directly(JudgeRow.of(config, 0), rows, config)
        none = directly(JudgeRow.of(config_for(seen.url, judge={**settings, "verified_share": 0.0}), 0), rows, config)
    assert len(seen.requests) == 2
    assert [row["judged_mfd"] for row in found] == [2.0, 2.0] and [row.get("judged_mfd") for row in none] == [None] * 2
    assert [(row["teacher_score"], row["student_score"]) for row in found] == [(10, 1), (10, 10)]
    stats = table_stats(with_difficulty(conform(found, SCORED), "mfd"), 4.0)
    assert (stats.verified, stats.compared, stats.agreed, stats.verifier_agreement) == (2, 2, 1, 0.5)


def test_a_new_answer_that_a_verifier_grades_is_gated_without_the_judge() -> None:
    answers = {"good?": RIGHT_CODE, "bad?": BROKEN}

    def reply(body: dict[str, Any], attempt: int) -> str:
        last = body["messages"][-1]["content"]
        return "Score: 9" if "judge" in last else answers[last]

    with running(reply) as seen:
        config = config_for(seen.url, judge={"verifiers": ["python_syntax"]}, respond={"min_score": 5})
        function = RespondRow(Questions(Prompts()), config, {})
        good, bad = directly(function, [{**instruction(text), "response": None} for text in answers], config)
    assert (good["status"], good["answer_score"]) == ("ok", 9.0)
    assert (bad["status"], bad["reason"], bad["answer_score"]) == ("filtered", "below_min_score", 1.0)
    assert len(seen.requests) == 3, "two answers, and one request to the judge"
