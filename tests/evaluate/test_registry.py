"""Suites by name."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from tapir_ray.config import parse
from tapir_ray.errors import InputError
from tapir_ray.evaluate.holdout import HoldoutSuite
from tapir_ray.evaluate.registry import suite_class
from tapir_ray.llm.roles import accounts_of
from tests.steps.test_evaluate import SPEC, Capitals


def test_a_suite_is_a_registered_one_or_a_users_class() -> None:
    assert suite_class("holdout") is HoldoutSuite
    assert suite_class(SPEC) is Capitals


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mt-bench", "one of alpaca_eval, holdout, ifeval, lm_eval, mt_bench, or"),
        ("tests.steps.test_evaluate:exact", "not a subclass of .*Suite"),
    ],
)
def test_a_spec_that_is_no_suite_is_refused(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=f"evaluate.suites: .*{words}"):
        suite_class(spec)


class Judged(Capitals):
    """A suite that asks the judge."""

    judge: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("suite", "asked"), [(f"{__name__}:Judged", True), (SPEC, False), ("not_installed.suite:Its", True)]
)
def test_a_suite_that_asks_the_judge_gets_one_without_a_measure_that_does(suite: str, asked: bool) -> None:
    small: dict[str, Any] = {"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}}
    measure = {"difficulty": {"measure": "tests.curriculum.test_measures:answer_length"}}
    config = parse({**small, "curriculum": measure, "evaluate": {"suites": ["holdout", suite]}})
    assert config.judges == asked and not config.measure_needs_judge
    assert ("judge" in accounts_of(config)) == asked
