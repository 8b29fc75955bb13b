"""Outputs that a changed key makes stale; every key of the config declares them."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.config import Config, parse
from tapir_ray.config.differences import differences
from tapir_ray.methods.tapir import layout
from tapir_ray.run.lineage import changed_by, following

BASE: dict[str, Any] = {
    "name": "x",
    "seed_data": {"path": "a.jsonl"},
    "student": {"model": "m"},
    "classify": {"by": "deberta", "model": "c", "label_rows": 10},
    "curriculum": {"rounds": 2},
}


def config(**changes: Any) -> Config:
    return parse({**BASE, **changes})


def outputs(given: Config) -> set[str]:
    return {table.path for table in layout(given).all()}


def kept(given: Config) -> set[str]:
    base = config()
    stale = following(changed_by(differences(base, given), layout(given)), layout(given))
    return outputs(given) - {table.path for table in stale}


def test_every_output_is_made_from_earlier_ones() -> None:
    seen: set[str] = set()
    for table in layout(config()).all():
        assert {one.path for one in table.inputs} <= seen
        seen.add(table.path)


@pytest.mark.parametrize(
    ("change", "still", "dropped"),
    [
        ({"judge": {"mode": "pointwise"}}, "checkpoints/00", "rounds/01/scored"),
        ({"mix": {"max_repeat": 5}}, "rounds/01/scored", "rounds/01/expanded"),
        ({"mix": {"fill": "unscored", "size": 9}}, "rounds/01/scored", "rounds/01/expanded"),
        ({"curriculum": {"difficulty": {"select": "none"}}}, "rounds/01/candidates", "rounds/01/scored"),
        ({"score": {"candidates": "unseen"}}, "checkpoints/00", "rounds/01/candidates"),
        ({"train": {"initial_share": 0.5}}, "seed/instructions", "seed/training"),
        ({"expand": {"sources": {"easy": 1.0}}}, "rounds/01/scored", "rounds/01/expanded"),
        ({"expand": {"probe_share": 0.5}}, "rounds/01/scored", "rounds/01/expanded"),
        ({"rewrite": {"mode": "second_pass"}}, "rounds/01/expanded", "rounds/01/generated"),
        ({"rewrite": {"tasks": ["Math"]}}, "rounds/01/expanded", "rounds/01/generated"),
        ({"rewrite": {"mark": True}}, "rounds/01/generated", "rounds/01/pool"),
        ({"rewrite": {"mark": True}}, "checkpoints/00", "rounds/01/training"),
        ({"train": {"epochs": 2}}, "rounds/01/training", "rounds/01/packed"),
        ({"train": {"schedule": "whole"}}, "rounds/01/training", "rounds/01/packed"),
        ({"train": {"loss_mask": "all"}}, "seed/training", "seed/packed"),
        ({"train": {"lora": {"between_rounds": "continue"}}}, "seed/training", "checkpoints/00"),
        ({"train": {"learning_rate": 1e-3}}, "seed/instructions", "checkpoints/00"),
        ({"train": {"round_learning_rate": 1e-3}}, "rounds/01/training", "rounds/01/packed"),
        ({"curriculum": {"rounds": 3}}, "checkpoints/02", "evaluation/holdout"),
        ({"classify": {"by": "teacher"}}, "checkpoints/00", "seed/instructions"),
        ({"student": {"model": "other"}}, "seed/instructions", "checkpoints/00"),
        ({"filter": {"evaluation_sets": ["b.jsonl"]}}, "seed/split", "seed/ingested"),
    ],
)
def test_a_change_keeps_the_outputs_before_it(change: dict[str, Any], still: str, dropped: str) -> None:
    left = kept(config(**change))
    assert still in left
    assert dropped not in left


def test_filling_a_mix_of_the_same_size_keeps_the_generated_rows() -> None:
    sized = parse({**BASE, "mix": {"size": 9}})
    filled = config(mix={"size": 9, "fill": "unscored"})
    stale = following(changed_by(differences(sized, filled), layout(filled)), layout(filled))
    assert "rounds/01/pool" in {table.path for table in stale}
    assert "rounds/01/generated" not in {table.path for table in stale}


def test_a_change_of_the_seed_data_keeps_nothing() -> None:
    assert kept(config(seed_data={"path": "b.jsonl"})) == set()


def test_a_suite_is_added_without_making_any_output_stale() -> None:
    added = config(evaluate={"suites": ["holdout", "my.suites:Capitals"]})
    assert added.digest() == config().digest()
    assert kept(added) == outputs(config()) | {"evaluation/Capitals", "evaluation/initial/Capitals"}
    stale = following(changed_by(["student.sampling"], layout(added)), layout(added))
    assert {"evaluation/holdout", "evaluation/Capitals"} <= {table.path for table in stale}


def test_a_control_is_added_without_making_any_output_stale() -> None:
    added = config(control="sft")
    assert added.digest() == config().digest(), "it may be added to a finished run"
    of_control = {f"control/sft/{number}/{name}" for number in ("01", "02")
                  for name in ("training", "packed", "checkpoint", "holdout")}  # fmt: skip
    assert outputs(added) - outputs(config()) == {"control/pool", *of_control}
    assert outputs(config()) <= kept(added)


@pytest.mark.parametrize(
    ("key", "first", "kept_too"),
    [
        ("judge.mode", "control/sft/01/training", "control/pool"),
        ("student.sampling", "control/sft/01/holdout", "control/pool"),
        ("train.epochs", "control/sft/01/training", "control/pool"),
        ("train.sequence_length", "control/pool", "seed/instructions"),
        ("mix.max_repeat", "control/sft/01/training", "control/pool"),
    ],
)
def test_a_key_that_changes_the_rounds_changes_their_control(key: str, first: str, kept_too: str) -> None:
    tables = layout(config(control="sft"))
    stale = [table.path for table in following(changed_by([key], tables), tables)]
    assert first in stale and kept_too not in stale


def test_marked_styles_change_the_pairs_of_a_control_and_not_its_answers() -> None:
    """A fork that kept them would compare a curriculum with marks against a control without."""
    tables = layout(config(control="random"))
    stale = {table.path for table in following(changed_by(["rewrite.mark"], tables), tables)}
    assert {"control/pool", "control/random/01/new", "control/random/01/training"} <= stale
    assert "control/random/01/generated" not in stale, "no answer is paid for twice"


def test_more_rounds_keep_the_scores_of_the_controls_before() -> None:
    tables = layout(config(control="sft"))
    stale = {table.path for table in following(changed_by(["curriculum.rounds"], tables), tables)}
    assert stale == {"evaluation/holdout"}


def test_a_change_of_speed_keeps_all_outputs() -> None:
    assert kept(config(resources={"cpus": 7}, budget={"max_tokens": 5})) == outputs(config())


def test_the_choice_of_the_best_round_makes_no_output_stale() -> None:
    assert kept(config(holdout={"select_share": 0.1})) == outputs(config())


@pytest.mark.parametrize(("responses", "again"), [("keep", False), ("fill", True)])
def test_the_judge_scores_the_seed_data_only_if_the_teacher_answers_it(responses: str, again: bool) -> None:
    tables = layout(config(seed_data={"path": "a.jsonl", "responses": responses}))
    assert (tables.instructions in changed_by(["judge.mode"], tables)) == again


@pytest.mark.parametrize(("schedule", "valid"), [("per_round", True), ("whole", False)])
def test_another_number_of_rounds_changes_a_schedule_that_they_share(schedule: str, valid: bool) -> None:
    before = config(train={"schedule": schedule})
    after = config(train={"schedule": schedule}, curriculum={"rounds": 3})
    stale = following(changed_by(differences(before, after), layout(after)), layout(after))
    left = outputs(after) - {table.path for table in stale}
    assert ("checkpoints/01" in left, "rounds/02/scored" in left) == (valid, valid)
    assert {"checkpoints/00", "rounds/01/training"} <= left


@pytest.mark.parametrize(("responses", "again"), [("keep", False), ("replace", True)])
def test_a_mark_changes_the_initial_sft_only_if_the_teacher_answers_the_seed_data(responses: str, again: bool) -> None:
    tables = layout(config(seed_data={"path": "a.jsonl", "responses": responses}))
    assert (tables.sft_training in changed_by(["rewrite.mark"], tables)) == again
    assert tables.instructions not in changed_by(["rewrite.mark"], tables), "no answer is paid for twice"
