"""Forecast of the suites: every student answers and is judged at the judge's price; what cannot be counted is told."""

from __future__ import annotations

from typing import Any

from tapir_ray.config import Config, parse
from tapir_ray.cost.size import Size
from tapir_ray.cost.suites import guessed_answer, measured_students, suite_lines, suites_assumed, suites_work
from tapir_ray.evaluate.suite import Forecast

JUDGE = {"model": "j", "price": {"input": 1.0, "output": 2.0}, "sampling": {"max_tokens": 1000}, "parse_attempts": 3}


def config(**sections: Any) -> Config:
    return parse({"name": "x", "seed_data": {"path": "a"}, "student": {"model": "m"}, "judge": JUDGE, **sections})


def test_every_student_is_counted() -> None:
    assert measured_students(config()) == 2, "the initial and the last one"
    assert measured_students(config(control="sft")) == 3
    assert measured_students(config(control="sft", evaluate={"students": ["last"]})) == 1
    assert measured_students(config(evaluate={"only": True})) == 1


def test_the_judges_requests_are_a_line_with_their_price() -> None:
    guess, most = Forecast(2, ["x" * 400, "x" * 400]), Forecast(2, ["x" * 4000, "x" * 4000])
    (line,) = suite_lines(config(), {"my:Capitals": (guess, most)})
    assert (line.stage, line.role, line.rows) == ("evaluate Capitals", "judge", 4)
    assert line.size == Size(4, 4 * 100, 4 * 120), "one token for every 4 bytes, 120 for a reply"
    assert line.cost == (400 * 1.0 + 480 * 2.0) / 1e6
    assert line.most.calls == 4 * 3 and line.most.output == 4 * 3 * 1000, "all attempts"
    assert line.most.input >= 4 * 3 * 4000, "one token for every byte"
    work = suites_work(config(), {"my:Capitals": (guess, most), "my:Other": None})
    assert work == {"Capitals": {"students": 2, "answers": 4, "judge_requests": 4}, "Other": None}


def test_a_suite_without_a_forecast_is_named() -> None:
    assert suite_lines(config(), {"my:Other": None}) == []
    assert suites_assumed(config(), {"my:Other": None}) == ["the suite Other is not counted, as it has no forecast"]
    assert suites_assumed(config(), {"my:Capitals": (Forecast(1), Forecast(1))}) == []


def test_an_answer_is_as_long_as_those_of_the_seed_data_but_not_longer_than_it_may_be() -> None:
    short = config(student={"model": "m", "sampling": {"max_tokens": 10}})
    assert len(guessed_answer(["12", "1234"], short)) == 3
    assert len(guessed_answer(["1" * 99], short)) == 40 and len(guessed_answer([], short)) == 20
