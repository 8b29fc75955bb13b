"""What a changed key makes stale, and that every key of the config is known to change something."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.config import Config, parse
from tapir_ray.config.differences import differences
from tapir_ray.run.lineage import ANSWERS, CHANGES, changed_by, following, inputs

BASE: dict[str, Any] = {
    "name": "x",
    "seed_data": {"path": "a.jsonl"},
    "student": {"model": "m"},
    "classify": {"by": "deberta", "model": "c", "label_rows": 10},
    "curriculum": {"rounds": 2},
}


def config(**changes: Any) -> Config:
    return parse({**BASE, **changes})


def kept(given: Config) -> set[str]:
    base = config()
    stale = following(changed_by(differences(base, given), given), given)
    return set(inputs(given)) - set(stale)


def test_every_output_is_made_from_earlier_ones() -> None:
    seen: set[str] = set()
    for output, made_from in inputs(config()).items():
        assert set(made_from) <= seen
        seen.add(output)


def test_every_section_that_changes_results_is_known() -> None:
    assert {key.split(".")[0] for key in CHANGES} == set(config().results())
    names = {name for names in CHANGES.values() for name in names}
    outputs = inputs(config())
    assert names <= {ANSWERS, *outputs, *(output.removeprefix("rounds/")[3:] for output in outputs)}


@pytest.mark.parametrize(
    ("change", "still", "gone"),
    [
        ({"judge": {"mode": "pointwise"}}, "checkpoints/00", "rounds/01/scored"),
        ({"mix": {"max_repeat": 5}}, "rounds/01/scored", "rounds/01/expanded"),
        ({"rewrite": {"mode": "second_pass"}}, "rounds/01/expanded", "rounds/01/generated"),
        ({"train": {"epochs": 2}}, "rounds/01/training", "rounds/01/packed"),
        ({"train": {"loss_mask": "all"}}, "seed/training", "seed/packed"),
        ({"train": {"lora": {"between_rounds": "continue"}}}, "seed/training", "checkpoints/00"),
        ({"train": {"learning_rate": 1e-3}}, "seed/instructions", "checkpoints/00"),
        ({"train": {"round_learning_rate": 1e-3}}, "rounds/01/training", "rounds/01/packed"),
        ({"curriculum": {"rounds": 3}}, "checkpoints/02", "evaluation/holdout"),
        ({"classify": {"by": "teacher"}}, "checkpoints/00", "seed/instructions"),
        ({"student": {"model": "other"}}, "seed/instructions", "checkpoints/00"),
    ],
)
def test_a_change_keeps_what_comes_before_it(change: dict[str, Any], still: str, gone: str) -> None:
    left = kept(config(**change))
    assert still in left
    assert gone not in left


def test_a_change_of_the_seed_data_keeps_nothing() -> None:
    assert kept(config(seed_data={"path": "b.jsonl"})) == set()


def test_a_change_of_speed_keeps_everything() -> None:
    assert kept(config(resources={"cpus": 7}, budget={"max_tokens": 5})) == set(inputs(config()))
