"""Keys of `method: elad`: what they choose, and the mistakes that are refused before anything is spent."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.api.config_warnings import warnings_about
from tapir_ray.config import Config, parse
from tapir_ray.config.data import Family
from tapir_ray.errors import InputError
from tapir_ray.simulator.families import FAMILIES


def config(**sections: Any) -> Config:
    given = {"name": "x", "method": "elad", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}}
    return parse({**given, **sections})


def test_the_method_is_a_key_and_the_work_also_follows_from_other_sections() -> None:
    assert (config().method, config().work) == ("elad", "elad")
    assert config(method="tapir").work == "tapir"
    assert config(evaluate={"only": True}).work == "evaluate"
    assert config(method="tapir", regenerate={"operations": ["filter"]}).work == "regenerate"


@pytest.mark.parametrize(("select", "whole"), [("uncertain", False), ("random", False), ("mfd", True)])
def test_only_the_selection_by_difficulty_has_the_pool_answered_and_scored(select: str, whole: bool) -> None:
    found = config(elad={"select": select})
    assert (found.scores_candidates, found.answers_pool) == (whole, whole)


def test_the_run_ends_after_two_rounds_without_a_gain_and_after_one_of_the_other_method() -> None:
    assert config().stop_rounds == 2 and config(method="tapir").stop_rounds == 1
    assert config(curriculum={"stop_when": "no_gain", "stop_rounds": 3}).stop_rounds == 3


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"elad": {"step_pattern": "("}}, "not a regular expression"),
        ({"elad": {"step_pattern": " *"}}, "matches the empty text"),
        ({"elad": {"samples": 1}}, "greater than or equal to 2"),
        ({"elad": {"annotations": 50, "max_annotations": 40}}, "lower annotations"),
        ({"control": "sft"}, "method elad has none"),
        ({"curriculum": {"difficulty": {"measure": "ifd"}}}, "set curriculum.difficulty.measure mfd"),
        ({"student": {"model": "m", "engine": "openai", "endpoint": {"model": "n"}}}, "elad.select random or mfd"),
        ({"elad": {"max_cost": 1.0}, "teacher": {"base_url": "http://x", "model": "y"}}, "use elad.max_tokens"),
    ],
)  # fmt: skip
def test_settings_that_cannot_run_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(**sections)


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"method": "tapir", "elad": {"samples": 3}}, "elad.samples"),
        ({"expand": {"size": 5}}, "expand.size"),
        ({"mix": {"max_repeat": 5}}, "mix.max_repeat"),
        ({"elad": {"select": "random", "samples": 3}}, "elad.samples"),
        ({"elad": {"select": "random", "revise": "rewrite", "attempts": 3}}, "elad.attempts"),
        ({"curriculum": {"stop_rounds": 3}}, "curriculum.stop_rounds"),
        ({"regenerate": {"operations": ["filter"]}}, "method"),
    ],
)
def test_a_key_without_effect_is_refused(sections: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=f"{key} has no effect"):
        config(**sections)


def test_the_families_of_the_seed_rows_are_those_of_the_simulator() -> None:
    assert set(Family.__args__) == {family.name for family in FAMILIES}


def test_a_student_without_steps_and_a_pool_without_questions_are_warned_about() -> None:
    quiet = {"teacher": {"base_url": "http://localhost:1/v1", "model": "t"}, "judge": {"repeat_share": 0.0}}
    quiet["judge"] |= {"base_url": "http://localhost:1/v1", "model": "j"}
    created = {"student": {"create": {"max_length": 4096}}}
    risky = warnings_about(config(**quiet, **created))
    assert ["responses keep" in risky[0], "initial_share 1" in risky[1], len(risky)] == [True, True, 2]
    fine = {"seed_data": {"path": "a.jsonl", "responses": "replace"}, "train": {"initial_share": 0.2}}
    assert warnings_about(config(**quiet, **created, **fine)) == []
    assert warnings_about(config(**quiet, **created, method="tapir")) == []
