"""Configs of a program: a path, a mapping or an object, and changes by key."""

from __future__ import annotations

from pathlib import Path

import pytest

import tapir_ray as tapir
from tapir_ray.api.asking import config_for_rows
from tapir_ray.api.configs import configured, place_of
from tapir_ray.api.judge import ASKS_JUDGE_ALONE

CONTENT = {"name": "mine", "seed_data": {"path": "rows.jsonl"}, "student": {"model": "a/b"}}


def test_a_path_a_mapping_and_an_object_give_the_same_config(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nseed_data: {path: rows.jsonl}\nstudent: {model: a/b}\n")
    config = configured(CONTENT)
    assert configured(path) == configured(str(path)) == configured(config) == config
    assert CONTENT["seed_data"] == {"path": "rows.jsonl"}, "the caller's mapping was changed"


def test_changes_take_values_of_python() -> None:
    changes = {"curriculum.rounds": 5, "train.learning_rate": 1e-05, "evaluate.suites": ["holdout", "ifeval"],
               "seed_data.license": "yes", "simulator": None}  # fmt: skip
    changed = configured(CONTENT, changes)
    assert changed.curriculum.rounds == 5 and changed.train.learning_rate == 1e-05
    assert changed.evaluate.suites == ["holdout", "ifeval"] and changed.seed_data.license == "yes"
    with pytest.raises(tapir.InputError, match=r"curriculum.round: unknown key; did you mean rounds\?"):
        configured(configured(CONTENT), {"curriculum.round": 5})


def test_what_is_no_config_is_refused() -> None:
    with pytest.raises(tapir.InputError, match="config is a int: give the path"):
        configured(3)  # type: ignore[arg-type]
    with pytest.raises(tapir.InputError, match=r"cannot read the config none\.yaml"):
        configured("none.yaml")


def test_the_place_of_a_run_is_the_argument_then_the_config_then_its_name() -> None:
    config = configured(CONTENT)
    assert place_of(config, None) == "runs/mine" and place_of(config, Path("a/b")) == "a/b"
    assert place_of(configured(CONTENT, {"run_dir": "s3://b/x"}), None) == "s3://b/x"


JUDGE = {"judge": {"model": "m", "base_url": "http://127.0.0.1:9/v1", "api_key_env": None}}


def test_a_judge_needs_no_teacher_and_no_gpu_of_the_run() -> None:
    """Else `judge` on a laptop would ask for the teacher's key, and for the GPUs that only the training needs."""
    claims = {"train": {"gpus": 8}, "student": {"gpus": 1}, "transform_cpus": 0.2}
    for given in (JUDGE, {**CONTENT, **JUDGE, "resources": claims, "train": {"attention": "flash_attention_2"}}):
        config = config_for_rows(given, "judge", evaluate=ASKS_JUDGE_ALONE)
        assert list(config.endpoints) == ["judge"] and config.judge.model == "m"
        assert config.resources.train.gpus == 0
    with pytest.raises(tapir.InputError, match=r"judge\.modell: unknown key"):
        config_for_rows({"judge": {"modell": "m"}}, "judge", evaluate=ASKS_JUDGE_ALONE)
    with pytest.raises(tapir.InputError, match=r"judgee: unknown key; did you mean judge"):
        config_for_rows({"judgee": {}}, "judge")
