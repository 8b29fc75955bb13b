"""Budgets of annotations by hand, and the rows of ELAD's tables."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tapir_ray.config import Elad
from tapir_ray.curriculum.step_uncertainty import Uncertainty
from tapir_ray.data.schemas import ANNOTATED, CONTINUED, EXPLAINED, SCORED, conform, prefix_id
from tapir_ray.steps.annotate import Spent, affordable
from tapir_ray.steps.explain import prefix_rows, to_explain, with_selection, with_step_uncertainty
from tapir_ray.steps.revisions import as_pairs

DEMO = " [,.] "
TEXT = "3 + 4 = 7 , 7 - 2 = 6 . answer : 6"


@pytest.mark.parametrize(
    ("budget", "spent", "candidates", "count", "reason"),
    [
        ({}, Spent(), 500, 100, ""),
        ({}, Spent(), 30, 30, ""),
        ({}, Spent(200), 0, 0, "no question is left to annotate"),
        ({"max_annotations": 250}, Spent(200), 500, 50, ""),
        ({"max_annotations": 200}, Spent(200), 500, 0, "elad.max_annotations 200 is used up"),
        # 100 annotations of 60 tokens: 1,000 of 7,000 tokens are left, enough for 16.
        ({"max_tokens": 7000}, Spent(100, 4000, 2000), 500, 16, ""),
        ({"max_tokens": 6059}, Spent(100, 4000, 2000), 500, 0, "elad.max_tokens 6059 is used up"),
        ({"max_tokens": 5000}, Spent(100, 4000, 2000), 500, 0, "elad.max_tokens 5000 is used up"),
        ({"max_tokens": 5000}, Spent(), 500, 100, ""),
        # 2 cents each: 30 cents are left.
        ({"max_cost": 2.3}, Spent(100, 0, 0, 2.0), 500, 14, ""),
        ({"max_cost": 2.0}, Spent(100, 0, 0, 2.0), 500, 0, "elad.max_cost 2 is used up"),
    ],
)
def test_a_round_annotates_what_the_budgets_leave(
    budget: dict[str, Any], spent: Spent, candidates: int, count: int, reason: str
) -> None:
    assert affordable(Elad(annotations=100, **budget), spent, candidates) == (count, reason)


def explained(*rows: dict[str, Any]) -> pa.Table:
    messages = [{"role": "user", "content": "how many ?"}]
    usual = {"split": "seed", "status": "ok", "messages": messages, "task": "Math"}
    return conform([{**usual, **row} for row in rows], EXPLAINED)


def test_each_prefix_becomes_a_row_to_continue_without_the_answers_of_the_whole() -> None:
    rows = prefix_rows(
        explained(
            {"instruction_id": "a", "student_response": TEXT, "student_samples": ["x"], "answer_tokens": 9},
            {"instruction_id": "b", "student_response": "6"},
            {"instruction_id": "c", "student_response": TEXT, "status": "failed"},
        ),
        DEMO, 8, 0.7,
    ).to_pylist()  # fmt: skip
    assert [(row["instruction_id"], row["steps"], row["answer_prefix"]) for row in rows] == [
        ("a", 1, "3 + 4 = 7 , "), ("a", 2, "3 + 4 = 7 , 7 - 2 = 6 . ")
    ]  # fmt: skip
    assert {row["prefix_id"] for row in rows} == {prefix_id("a", 1), prefix_id("a", 2)}
    assert all(row["student_samples"] is None and row["answer_tokens"] is None for row in rows)
    assert {row["answer_temperature"] for row in rows} == {0.7}


def test_the_first_continuation_and_the_samples_are_the_k_of_a_prefix() -> None:
    usual = {"instruction_id": "a", "status": "ok", "answer_prefix": "3 + 4 = 7 , "}
    rows = [
        {**usual, "student_response": "7 - 2 = 5 . answer : 5",
         "student_samples": ["answer : 5", "answer : 6", "answer : 5"]},
        {**usual, "student_response": "answer : 5", "student_samples": ["answer : 5.0"]},
        {**usual, "status": "failed"},
    ]  # fmt: skip
    assert with_step_uncertainty(conform(rows, CONTINUED))["step_uncertainty"].to_pylist() == [0.25, 0.0, None]


def test_the_selected_rows_show_their_steps_and_numbers() -> None:
    rows = explained(
        {"instruction_id": "a", "student_response": TEXT},
        {"instruction_id": "b", "student_response": "6"},
        {"instruction_id": "c", "status": "failed"},
    )
    found = with_selection(rows, {"a": Uncertainty((0.0, 0.5), 0.25)}, {"a"}, DEMO).to_pylist()
    assert [row["chosen"] for row in found] == [True, False, False]
    assert found[0]["steps"] == ["3 + 4 = 7 ,", "7 - 2 = 6 .", "answer : 6"] and found[0]["uncertainty"] == 0.5
    assert (found[0]["step_uncertainty"], found[0]["disagreement"]) == ([0.0, 0.5], 0.25)
    assert found[1]["steps"] == ["6"] and found[1]["uncertainty"] is None and found[2]["steps"] is None
    assert [row["chosen"] for row in with_selection(rows, {}, None, DEMO).to_pylist()] == [True, True, False]


def test_the_holdout_is_never_explained() -> None:
    told = (("a", "seed", "ok"), ("b", "holdout", "ok"), ("c", "seed", "failed"), ("d", "seed", "ok"))
    names = ("instruction_id", "split", "status")
    rows = conform([dict(zip(names, row, strict=True)) for row in told], SCORED)
    assert to_explain(rows)["instruction_id"].to_pylist() == ["a", "d"]
    assert to_explain(rows, {"b", "d"})["instruction_id"].to_pylist() == ["d"]


def test_only_usable_annotations_are_trained_on() -> None:
    usual = {"messages": [{"role": "user", "content": "q"}], "task": "Math"}
    rows = [
        {**usual, "instruction_id": "a", "status": "ok", "response": "right"},
        {**usual, "instruction_id": "b", "status": "failed", "response": None},
        {**usual, "instruction_id": "c", "status": "filtered", "response": "refused"},
    ]
    pairs = as_pairs(conform(rows, ANNOTATED)).to_pylist()
    assert [(pair["instruction_id"], pair["response"], pair["pool"], pair["copy"]) for pair in pairs] == [
        ("a", "right", "annotated", 0)
    ]
