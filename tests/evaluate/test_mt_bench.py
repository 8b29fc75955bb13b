"""MT-Bench: items, ratings in replies, and both turns graded by a simulated judge over HTTP."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import Config, Endpoint, Judge, parse
from tapir_ray.errors import InputError
from tapir_ray.evaluate.mt_bench import TEMPERATURES, metrics, read_questions
from tapir_ray.evaluate.mt_bench_judge import GradeTurns, rating_of
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.prompts import Prompts
from tapir_ray.simulator import Options
from tapir_ray.simulator import running as simulated
from tests.llm.endpoint import Answer, running
from tests.llm.endpoint import Endpoint as Seen
from tests.steps.contexts import write

MATH = {"question_id": 111, "category": "math", "turns": ["What is 2 + 3?", "And twice that?"]}
WRITING = {"question_id": 81, "category": "writing", "turns": ["Write about Hawaii.", "Start every line with A."]}
REFERENCE = {"question_id": 111, "choices": [{"index": 0, "turns": ["The sum is 5.", "Twice 5 is 10."]}]}


def config_of(folder: Path, questions: list[Any], references: list[Any] | None) -> Config:
    settings = {"questions": write(folder / "question.jsonl", questions)}
    if references is not None:
        settings["references"] = write(folder / "gpt-4.jsonl", references)
    return parse(
        {
            "name": "x",
            "student": {"model": "m"},
            "evaluate": {"only": True, "suites": ["mt_bench"], "mt_bench": settings},
        }
    )


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Good.\nRating: [[8]]", 8.0),
        ("Rating: [[7.5]]", 7.5),
        ("[[ 10 ]]", 10.0),
        ("First [[3]], on second thoughts [[9]]", 3.0),
        ("See source [2]. Rating: [[6]]", 6.0),
        ("Rating: [6]", 6.0),
        ("Rating: 6", None),
        ("Rating: [[0]]", None),
        ("Rating: [[85]]", None),
        ("Rating: [[n]]", None),
        ("", None),
    ],
)
def test_the_rating_is_the_first_number_in_double_brackets_else_in_single_ones(
    reply: str, rating: float | None
) -> None:
    assert rating_of(reply) == rating


def test_items_have_the_temperature_and_references_of_their_category(tmp_path: Path) -> None:
    math, writing = read_questions(config_of(tmp_path, [MATH, WRITING], [REFERENCE]))
    assert (math["answer_temperature"], writing["answer_temperature"], math["answer_max_tokens"]) == (0.0, 0.7, 1024)
    assert math["references"] == ["The sum is 5.", "Twice 5 is 10."] and writing["references"] is None
    assert math["follow_ups"] == ["And twice that?"] and math["task"] == "math"


def test_the_public_files_give_80_items_in_8_categories_and_30_references(data_folder: Path) -> None:
    files = {
        "questions": str(data_folder / "eval" / "mt_bench_questions.jsonl"),
        "references": str(data_folder / "eval" / "mt_bench_reference_gpt4.jsonl"),
    }
    evaluate = {"only": True, "suites": ["mt_bench"], "mt_bench": files}
    rows = read_questions(parse({"name": "x", "student": {"model": "m"}, "evaluate": evaluate}))
    assert len(rows) == 80 and {row["task"] for row in rows} == TEMPERATURES.keys()
    with_reference = [row["task"] for row in rows if row["references"]]
    assert len(with_reference) == 30 and set(with_reference) == {"math", "reasoning", "coding"}


@pytest.mark.parametrize(
    ("questions", "references", "words"),
    [
        ([MATH], None, "evaluate.mt_bench.references is missing: give the path of .*FastChat"),
        ([MATH], [{**REFERENCE, "question_id": 112}], r"references .*lacks the answers to 1 .*\(question_id 111\)"),
        ([{**WRITING, "turns": ["one"]}], None, "question.jsonl:1: turns must be a list of 2 texts"),
        ([{**WRITING, "category": None}], None, "question.jsonl:1: category must be a text"),
        ([WRITING, WRITING], None, "question.jsonl:2 has the first turn of question.jsonl:1"),
        ([], None, "has no questions"),
        (["{broken"], None, "evaluate.mt_bench.questions question.jsonl:1"),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_their_key(
    tmp_path: Path, questions: list[Any], references: list[Any] | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_questions(config_of(tmp_path, questions, references))


def test_a_missing_file_says_where_it_can_be_had() -> None:
    evaluate = {"only": True, "suites": ["mt_bench"]}
    for settings, words in (({}, "is missing"), ({"questions": "owner/name"}, "owner/name is not a file")):
        config = parse({"name": "x", "student": {"model": "m"}, "evaluate": {**evaluate, "mt_bench": settings}})
        with pytest.raises(
            InputError, match=rf"evaluate.mt_bench.questions .*{words}.*FastChat|{words}.*question.jsonl"
        ):
            read_questions(config)


def answered(question: dict[str, Any], one: str, two: str, references: list[str] | None = None) -> dict[str, Any]:
    first, second = question["turns"]
    return {
        "instruction_id": str(question["question_id"]),
        "messages": [
            {"role": "user", "content": first},
            {"role": "assistant", "content": one},
            {"role": "user", "content": second},
        ],
        "student_response": two,
        "references": references,
        "task": question["category"],
        "status": "ok",
    }


def graded(url: str, *rows: dict[str, Any], attempts: int = 3) -> list[dict[str, Any]]:
    """Returns the rows as the judge at `url` grades them, asked with the real client."""

    async def main() -> list[dict[str, Any]]:
        endpoint = Endpoint(model="judge", api_key_env=None, max_attempts=1, timeout_s=10.0)
        client = OpenAIClient(Target("judge", endpoint, url), Meter())
        grade = GradeTurns(Prompts(), Judge.model_validate({"parse_attempts": attempts}))
        found = [await grade({"judge": client}, row) for row in rows]
        await client.close()
        return found

    return asyncio.run(main())


def test_a_simulated_judge_grades_both_turns_with_the_references() -> None:
    """The right answer to turn 1 gets a 10. A wrong one to turn 2 gets a 1, though turn 1 is shown with it."""
    references = ["The sum is 5.", "Twice 5 is 10."]
    with simulated(Options()) as url:
        right, wrong, writing = graded(
            url,
            answered(MATH, "The sum is 5.", "Twice 5 is 10.", references),
            answered(MATH, "The sum is 5.", "no idea", references),
            answered(WRITING, "Hawaii is warm.", ""),
        )
    assert (right["turn_1_score"], right["turn_2_score"], right["student_score"]) == (10.0, 10.0, 10.0)
    assert (wrong["turn_1_score"], wrong["turn_2_score"], wrong["student_score"]) == (10.0, 1.0, 5.5)
    assert 1.0 < writing["turn_1_score"] < 10.0 and writing["turn_2_score"] == 1.0, "an empty answer is graded too"
    assert "Rating: [[10]]" in right["turn_2_judgement"]


def asked(answer: Answer, attempts: int = 3) -> tuple[dict[str, Any], Seen]:
    with running(answer) as seen:
        (row,) = graded(seen.url, answered(MATH, "answer one", "answer two", ["five", "ten"]), attempts=attempts)
    return row, seen


def test_the_judge_is_asked_at_temperature_0_and_again_with_another_seed_if_a_reply_has_no_rating() -> None:
    def answer(body: dict[str, Any], attempt: int) -> str:
        return "Rating: [[4]]" if body["temperature"] else "I cannot say."

    row, seen = asked(answer)
    assert row["student_score"] == 4.0 and len(seen.requests) == 4
    assert sorted(body["temperature"] for body in seen.requests) == [0.0, 0.0, 0.7, 0.7]
    assert len({body["seed"] for body in seen.requests}) == 4


def test_an_item_without_a_rating_of_a_turn_fails_with_the_turn_and_keeps_the_other_rating() -> None:
    def answer(body: dict[str, Any], attempt: int) -> str:
        return "no" if "answer two" in body["messages"][0]["content"] else "Rating: [[7]]"

    row, seen = asked(answer, attempts=2)
    assert (row["status"], row["reason"]) == ("failed", "unparsed_rating: turn 2")
    assert row["turn_1_score"] == 7.0 and "student_score" not in row and "turn_2_score" not in row
    assert len(seen.requests) == 3


def test_a_second_turn_is_graded_with_the_first_as_context_and_a_first_turn_without_the_second() -> None:
    _, seen = asked(lambda body, attempt: "[[5]]")
    first, second = sorted((body["messages"][0]["content"] for body in seen.requests), key=len)
    assert "answer one" in first and "five" in first and "answer two" not in first and "ten" not in first.split()
    assert all(text in second for text in ("answer one", "answer two", "five", "ten", "What is 2 + 3?"))


def test_the_metrics_leave_out_turns_without_a_rating() -> None:
    """Three ratings: (8 + 4 + 3) / 3. As a mean of items it would be (6 + 3) / 2."""
    rows = [
        {"task": "math", "turn_1_score": 8.0, "turn_2_score": 4.0},
        {"task": "math", "turn_1_score": 3.0, "turn_2_score": None},
        {"task": "stem", "turn_1_score": None, "turn_2_score": None},
    ]
    found = metrics(rows)
    assert {name: (one.value, one.rows) for name, one in found.items()} == {
        "all_ratings": (5.0, 2),
        "turn_1": (5.5, 2),
        "turn_2": (4.0, 1),
        "math/turn_1": (5.5, 2),
        "math/turn_2": (4.0, 1),
    }
    assert metrics([rows[2]]) == {} and json.dumps(sorted(found))
