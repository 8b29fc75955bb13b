"""Declarations of filters: their reasons are unique, their keys exist and make the tables that they mark stale."""

from __future__ import annotations

import itertools
from functools import reduce
from typing import Any

import pytest

from tapir_ray.config import Config, parse
from tapir_ray.methods.tapir import layout
from tapir_ray.run.lineage import changed_by, following
from tapir_ray.transforms.filters import AFTER, BEFORE, FILTERS, SCORED, advice_on, row_filters
from tapir_ray.transforms.filters.base import READING, Filter
from tapir_ray.transforms.filters.user_function import ADVICE

MARKS = {READING: "seed/ingested", BEFORE: "rounds/01/checked", AFTER: "rounds/01/generated",
         SCORED: "rounds/01/generated"}  # fmt: skip
"""The table that the filters of each stage mark."""
ALL_ON = {"respond": {"min_score": 5}, "filter": {"functions": ["tests.transforms.filters.test_added:shouts"]}}


def config(**sections: Any) -> Config:
    return parse({"name": "t", "student": {"model": "m"}, "seed_data": {"path": "x"}, **sections})


def test_no_two_filters_share_a_reason() -> None:
    reasons = list(itertools.chain.from_iterable(kind.reasons for kind in FILTERS))
    assert len(set(reasons)) == len(reasons)
    assert all(kind.reasons or kind.__name__ == "UserFunction" for kind in FILTERS)


@pytest.mark.parametrize("kind", FILTERS, ids=lambda kind: kind.__name__)
def test_a_key_that_a_filter_reads_makes_its_table_stale(kind: type[Filter]) -> None:
    for key in kind.keys:
        reduce(getattr, key.split("."), config())
        stale = following(changed_by([key], layout(config())), layout(config()))
        assert MARKS[kind.when] in {table.path for table in stale}, key


def test_a_function_of_the_user_makes_the_answers_to_the_seed_data_stale() -> None:
    """It may be one that is called after answering."""
    filled = config(seed_data={"path": "x", "responses": "fill"}, classify={"by": "teacher"})
    stale = following(changed_by(["filter.functions"], layout(filled)), layout(filled))
    assert layout(filled).instructions in stale


def test_the_config_turns_filters_off() -> None:
    names = [type(one).__name__ for one in row_filters(config(**ALL_ON), BEFORE)]
    assert names == ["Empty", "OverLong", "PromptLeakage", "OtherTask", "UserFunction"]
    off = config(filter={"other_task": False})
    assert [type(one).__name__ for one in row_filters(off, BEFORE)] == names[:3]
    assert [type(one).__name__ for one in row_filters(off, SCORED)] == []
    assert [type(one).__name__ for one in row_filters(config(**ALL_ON), SCORED)] == ["BelowMinScore"]


def test_advice_comes_from_the_filter_or_from_the_users_functions() -> None:
    assert advice_on("over_long") == "raise filter.max_chars"
    assert advice_on("mentions_a_cat") == ADVICE
