"""Suites by name."""

from __future__ import annotations

import pytest

from tapir_ray.errors import InputError
from tapir_ray.evaluate.holdout import HoldoutSuite
from tapir_ray.evaluate.registry import suite_class
from tests.steps.test_evaluate import SPEC, Capitals


def test_a_suite_is_a_registered_one_or_a_users_class() -> None:
    assert suite_class("holdout") is HoldoutSuite
    assert suite_class(SPEC) is Capitals


@pytest.mark.parametrize(
    ("spec", "words"),
    [("mt-bench", "one of holdout"), ("tests.steps.test_evaluate:exact", "not a subclass of .*Suite")],
)
def test_a_spec_that_is_no_suite_is_refused(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=f"evaluate.suites: .*{words}"):
        suite_class(spec)
