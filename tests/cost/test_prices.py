"""Prices that are given, listed and unknown, and the warnings that are said before a run."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.config import Price, parse
from tapir_ray.cost import prices
from tapir_ray.doubts import doubts
from tapir_ray.errors import InputError
from tapir_ray.progress import spending


def config(**sections: Any) -> Any:
    return parse({"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}, **sections})


def test_a_model_is_listed_with_and_without_its_date_and_only_at_its_provider() -> None:
    assert prices.listed_price("gpt-4.1", None) == prices.listed_price("gpt-4.1-2025-04-14", None)
    assert prices.listed_price("gpt-4o-2024-05-13", None) != prices.listed_price("gpt-4o", None)
    assert prices.listed_price("gpt-4.1", "http://127.0.0.1:8000/v1") is None
    assert prices.listed_price("some-model", None) is None
    for provider in prices._table()["providers"]:
        for model, price in provider["models"].items():
            assert Price(**price).output > 0, model


@pytest.mark.parametrize(
    ("model", "pinned"),
    [("gpt-4.1-2025-04-14", True), ("gpt-4-0613", True), ("claude-3-5-haiku-20241022", True), ("gpt-4.1", False),
     ("mistral-large-2411", True), ("llama-3.1-8b-8192", False), ("gpt-4-0125-preview", True)],
)  # fmt: skip
def test_a_date_in_a_name(model: str, pinned: bool) -> None:
    assert prices.is_pinned(model) == pinned


def test_a_budget_in_dollars_needs_a_price_that_is_given_or_listed() -> None:
    listed = config(budget={"max_cost": 5}, teacher={"model": "gpt-4.1-2025-04-14"})
    assert listed.teacher.known_price == Price(input=2.0, cached_input=0.5, output=8.0)
    own = config(budget={"max_cost": 5}, teacher={"model": "mine", "price": {"input": 0, "output": 0}})
    assert own.teacher.known_price == Price(), "a free endpoint"
    given = config(teacher={"model": "gpt-4.1-2025-04-14", "price": {"input": 1.0}})
    assert given.teacher.known_price == Price(input=1.0)
    with pytest.raises(InputError, match=r"teacher\.price, as mine is not in our list"):
        config(budget={"max_cost": 5}, teacher={"model": "mine"})
    assert parse(config().model_dump(mode="json")) == config(), "the config stored in a run is read again"


def test_doubts_name_unpinned_models_the_judge_that_is_the_teacher_listed_prices_and_turns() -> None:
    first, second, third = doubts(config(teacher={"model": "gpt-4.1"}))
    assert first.startswith("teacher.model gpt-4.1 has no date")
    assert "teacher.price is not set" in second and prices.date() in second
    assert third.startswith("the judge is the teacher")
    pinned = {"model": "gpt-4.1-2025-04-14", "price": {"input": 2.0, "output": 8.0}}
    assert doubts(config(teacher=pinned, judge={**pinned, "model": "gpt-4o-2024-08-06"})) == []
    simulated = {"base_url": "simulator", "model": "x", "api_key_env": None}
    quiet = {"teacher": simulated, "simulator": {"seed_rows": 9}}
    assert doubts(config(**quiet)) == []
    unjudged = {"regenerate": {"operations": ["filter"]}, "teacher": pinned}
    assert doubts(config(**unjudged)) == []
    assert doubts(config(**quiet, train={"turns": "all"})) == []
    (twice,) = doubts(config(**quiet, train={"turns": "all"}, seed_data={"path": "a.jsonl", "turns": "all"}))
    assert twice.startswith("seed_data.turns and train.turns are both all")


def test_spending_is_shown_by_role_where_something_has_a_price() -> None:
    before = {"teacher": {"input_tokens": 10, "output_tokens": 0, "cost": 0.0}}
    assert spending(before, before) == []
    after = {"teacher": {"input_tokens": 1500, "output_tokens": 10, "cost": 1.23456}, "judge": {"cost": 0.0}}
    assert spending(after, before) == ["1,500 tokens", "teacher $1.235  judge $0"]
