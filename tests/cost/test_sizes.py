"""Guessed sizes of answers: a plain answer needs no style in its prompt and no second pass."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.config import Config, parse
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.size import Size
from tapir_ray.cost.sizes import guessed
from tapir_ray.curriculum import tasks

WEIGHTS = {"Math": 0.4, "Grammar": 0.4, "Others": 0.2}
INSTRUCTION, ANSWER = "i" * 80, "a" * 40
PLAIN_TOKENS, REPLY = 20, 13
"""80 bytes are 20 tokens; an answer of 40 bytes is 10, and a new one is guessed as 1.3 times as long."""


def config(**sections: Any) -> Config:
    return parse(
        {
            "name": "x",
            "seed_data": {"path": "a"},
            "student": {"model": "m"},
            "curriculum": {"weights": WEIGHTS},
            **sections,
        }
    )


def sizes(config: Config, asked: str, task: str | None = None) -> tuple[Size, Size]:
    """Returns the guess and the bound of a row's requests to the teacher."""
    row = {"messages": [{"role": "user", "content": INSTRUCTION}], "response": ANSWER, "task": task}
    taxonomy = tasks.load(config.curriculum).styling(config.rewrite.tasks)
    found = guessed(config, Seed(sample=[row]), taxonomy)
    (of_row,) = found.rows[asked]
    return of_row[1]["teacher"], found.most[asked]["teacher"]


@pytest.mark.parametrize("asked", ["respond", "fill"])
def test_plain_answers_are_forecast_without_a_style(asked: str) -> None:
    styled, _ = sizes(config(), asked)
    plain, bound = sizes(config(rewrite={"tasks": []}), asked)
    assert (plain.calls, plain.input, plain.output) == (1, PLAIN_TOKENS, pytest.approx(REPLY))
    assert styled.input > PLAIN_TOKENS + 20 and bound.calls == 1
    some, most = sizes(config(rewrite={"tasks": ["Math"]}), asked)
    assert some.input == pytest.approx(0.4 * styled.input + 0.6 * PLAIN_TOKENS), "Math has 0.4 of the weight"
    assert most.input > bound.input, "all rows may be of this task"
    assert sizes(config(rewrite={"tasks": ["Math"]}), asked, "Math")[0].input == styled.input
    assert sizes(config(rewrite={"tasks": ["Math"]}), asked, "Grammar")[0].input == PLAIN_TOKENS


def test_a_second_pass_is_forecast_for_styled_answers_alone() -> None:
    def calls(named: Any) -> tuple[float, float]:
        guess, bound = sizes(config(rewrite={"mode": "second_pass", "tasks": named}), "respond")
        return guess.calls, bound.calls

    assert calls("all") == (2, 2)
    assert calls(["Math", "Others"]) == (pytest.approx(1.6), 2)


def test_a_regeneration_rewrites_the_answers_of_styled_tasks_alone() -> None:
    made = {"classify": {"by": "column"}, "regenerate": {"operations": ["rewrite", "judge"]}}
    seed_data = {"seed_data": {"path": "a", "task_column": "t"}}
    some = config(**made, **seed_data, rewrite={"tasks": ["Grammar"]})
    assert [sizes(some, "rewrite", task)[0].calls for task in ("Grammar", "Math")] == [1, 0]
    assert sizes(config(**made, **seed_data), "rewrite", "Math")[0].calls == 1


def test_a_rubric_is_forecast_with_its_criteria_and_a_number_for_each() -> None:
    def judged(mode: str, task: str | None = None) -> tuple[Size, Size]:
        given = config(judge={"mode": mode, "repeat_share": 0.0, "structured": "off"})
        row = {"messages": [{"role": "user", "content": INSTRUCTION}], "response": ANSWER, "task": task}
        found = guessed(given, Seed(sample=[row]), tasks.load(given.curriculum))
        ((_, by_role),) = found.rows["score_seed"]
        return by_role["judge"], found.most["score_seed"]["judge"]

    plain, _ = judged("pairwise")
    default, bound = judged("rubric")
    of_math, _ = judged("rubric", "Math")
    assert (plain.calls, default.calls) == (2, 2)
    numbers = '{"helpfulness": <number>, "relevance": <number>, "accuracy": <number>, "detail": <number>}'
    form = len(f'{{"reasoning": "...", "answer_1": {numbers}, "answer_2": {numbers}}}')
    assert default.output - plain.output == pytest.approx(2 * form / 4), "two requests of one token for four bytes"
    assert default.input > plain.input and of_math.output < default.output, "Math has three criteria, not four"
    assert bound.input >= 3 * 4 * max(default.input, of_math.input), "any task, 3 attempts, a token for each byte"
