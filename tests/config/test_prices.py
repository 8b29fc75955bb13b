"""Prices: given, listed and unknown ones, and the warnings shown before a run."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from tapir_ray.api.config_warnings import warnings_about
from tapir_ray.config import Price, parse, prices
from tapir_ray.config.price_source import priced_by
from tapir_ray.errors import InputError
from tapir_ray.llm.budget.usage import Count
from tapir_ray.run.spending import spending


def config(**sections: Any) -> Any:
    return parse({"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}, **sections})


OPENROUTER, GOOGLE = "https://openrouter.ai/api/v1", "https://generativelanguage.googleapis.com/v1beta/openai/"


@pytest.mark.parametrize(
    ("model", "base_url", "alias"),
    [
        ("gpt-4.1-2025-04-14", None, "gpt-4.1"),
        ("openai/gpt-4.1", None, "gpt-4.1"),
        ("GPT-4.1", "https://api.openai.com/v1/", "gpt-4.1"),
        ("openai/gpt-4o", OPENROUTER, "openai/gpt-4o"),
        ("deepseek-chat", "https://api.deepseek.com", "deepseek/deepseek-chat"),
        ("claude-sonnet-4-5-20250929", "https://api.anthropic.com/v1/", "claude-sonnet-4-5"),
    ],
)
def test_a_model_is_listed_under_the_names_that_users_write(model: str, base_url: str | None, alias: str) -> None:
    price = prices.listed_price(model, base_url)
    assert price is not None and price == prices.listed_price(alias, base_url)
    assert Price(**price).output > Price(**price).input > 0


def test_a_model_is_listed_only_at_its_provider() -> None:
    assert prices.listed_price("gpt-4o-2024-05-13", None) != prices.listed_price("gpt-4o", None)
    for model, base_url in [
        ("gpt-4.1", "http://127.0.0.1:8000/v1"),
        ("gpt-4.1", "https://api.deepseek.com"),
        ("some-model", None),
        ("ft:gpt-4.1-2025-04-14:mine::x", None),
        ("text-embedding-3-small", None),
    ]:
        assert prices.listed_price(model, base_url) is None, model


def test_long_requests_have_a_price_tier_of_their_own() -> None:
    listed = prices.listed_price("gemini-2.5-pro", GOOGLE)
    assert listed is not None
    price = Price(**listed)
    assert (price.at(200_000).input, price.at(200_001).input) == (price.input, 2 * price.input)
    assert price.at(200_001).output > price.output and price.at(200_001).cached_input == 2 * (price.cached_input or 0)
    assert price.dearest(0).output == price.output and price.dearest(300_000).output == price.at(300_000).output
    assert price.times(0.5).at(300_000).output == price.at(300_000).output / 2
    long, short = (Count("x", 1, input_tokens=n, cached_tokens=10, output_tokens=100) for n in (250_000, 1_000))
    both = long.priced(price) + short.priced(price)
    assert both.cost(price) == pytest.approx(long.cost(price.at(250_000)) + short.cost(price))
    assert short.priced(price).surcharge == 0


def test_the_price_list_shows_its_date_and_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*arguments: Any) -> None:
        raise AssertionError("a price needs no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    prices.listed_price.cache_clear()
    prices.newest.cache_clear()
    assert prices.listed_price("gpt-4.1", None) is not None
    assert re.fullmatch(r"genai-prices [\d.]+ \(newest price 20\d\d-\d\d-\d\d\)", prices.source())


def test_check_and_the_card_name_the_list_of_the_roles_that_it_prices() -> None:
    both = config(teacher={"model": "gpt-4.1"}, judge={"model": "gpt-4o"})
    assert priced_by(both) == f"list prices of teacher and judge by {prices.source()}"
    own = {"model": "gpt-4.1", "price": {"input": 1.0}}
    assert priced_by(config(teacher=own)) is None
    assert priced_by(config(teacher={"model": "mine"})) is None


@pytest.mark.parametrize(
    ("model", "pinned"),
    [("gpt-4.1-2025-04-14", True), ("gpt-4-0613", True), ("claude-3-5-haiku-20241022", True), ("gpt-4.1", False),
     ("mistral-large-2411", True), ("llama-3.1-8b-8192", False), ("gpt-4-0125-preview", True)],
)  # fmt: skip
def test_a_date_in_a_name_pins_the_model(model: str, pinned: bool) -> None:
    assert prices.is_pinned(model) == pinned


def test_a_budget_in_dollars_needs_a_given_or_a_listed_price() -> None:
    listed = config(budget={"max_cost": 5}, teacher={"model": "gpt-4.1-2025-04-14"})
    assert listed.teacher.known_price == Price(input=2.0, cached_input=0.5, output=8.0)
    own = config(budget={"max_cost": 5}, teacher={"model": "mine", "price": {"input": 0, "output": 0}})
    assert own.teacher.known_price == Price(), "a free endpoint"
    given = config(teacher={"model": "gpt-4.1-2025-04-14", "price": {"input": 1.0}})
    assert given.teacher.known_price == Price(input=1.0)
    with pytest.raises(InputError, match=r"needs teacher\.price: mine is not in the price list"):
        config(budget={"max_cost": 5}, teacher={"model": "mine"})
    assert parse(config().model_dump(mode="json")) == config(), "the config stored in a run can be parsed again"


def test_warnings_name_unpinned_models_a_judge_that_is_the_teacher_listed_prices_and_turns() -> None:
    first, second, third = warnings_about(config(teacher={"model": "gpt-4.1"}))
    assert first.startswith("teacher.model gpt-4.1 has no date")
    assert "teacher.price is not set" in second and prices.source() in second
    assert third.startswith("the judge is the teacher")
    pinned = {"model": "gpt-4.1-2025-04-14", "price": {"input": 2.0, "output": 8.0}}
    assert warnings_about(config(teacher=pinned, judge={**pinned, "model": "gpt-4o-2024-08-06"})) == []
    simulated = {"base_url": "simulator", "model": "x", "api_key_env": None}
    quiet = {"teacher": simulated, "simulator": {"scenario": "recorded"}}
    assert warnings_about(config(**quiet)) == []
    (unknown,) = warnings_about(config(**{**quiet, "simulator": {"scenario": "tasks"}}))
    assert "knows only the instructions of simulator.seed_rows" in unknown
    unjudged = {"regenerate": {"operations": ["filter"]}, "teacher": pinned}
    assert warnings_about(config(**unjudged)) == []
    assert warnings_about(config(**quiet, train={"loss_mask": "all"})) == []
    (twice,) = warnings_about(
        config(**quiet, train={"loss_mask": "all"}, seed_data={"path": "a.jsonl", "turns": "all"})
    )
    assert twice.startswith("seed_data.turns and train.loss_mask are both all")
    unseen = {"score": {"candidates": "unseen"}, "train": {"initial_share": 0.5}}
    (turns,) = warnings_about(config(**{**quiet, **unseen, "seed_data": {"path": "a", "turns": "all"}}))
    assert "an earlier turn of a conversation" in turns and warnings_about(config(**quiet, **unseen)) == []
    (cold,) = warnings_about(config(**quiet, judge={"repeat_temperature": 0.0}))
    assert "judge.repeat_temperature" in cold and "not measured" in cold
    assert warnings_about(config(**quiet, judge={"repeat_temperature": 0.0, "repeat_share": 0.0})) == []


def test_spending_is_shown_by_role_if_something_has_a_price() -> None:
    before = {"teacher": {"input_tokens": 10, "output_tokens": 0, "cost": 0.0}}
    assert spending(before, before) == []
    after = {"teacher": {"input_tokens": 1500, "output_tokens": 10, "cost": 1.23456}, "judge": {"cost": 0.0}}
    assert spending(after, before) == ["1,500 tokens", "teacher $1.235  judge $0"]
