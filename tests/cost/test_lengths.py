"""The share of pairs longer than the limit, estimated before a run with the student's own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import CreateModel, parse
from tapir_ray.cost.lengths import over_length
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.train.create_student import create_student


def row(words: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "say it"}], "response": "yes " * words}


@pytest.mark.parametrize("words", [30, 200])
def test_the_share_of_long_pairs_is_estimated(tmp_path: Path, words: int) -> None:
    create = CreateModel(hidden_size=32, intermediate_size=64, layers=1, heads=2, vocab_size=300, max_length=128)
    create_student(create, ["say it", "yes " * 50], str(tmp_path / "student"), None, 0)
    train = {"sequence_length": 128}
    student = {"model": str(tmp_path / "student"), "max_model_len": 128}
    config = parse({"name": "x", "seed_data": {"path": "a"}, "student": student, "train": train})
    seed = Seed(sample=[row(words), *[row(2)] * 3, {**row(2), "response": None}])
    assert over_length(config, seed) == (0.25 if words == 200 else 0.0)


def test_a_created_student_has_no_tokenizer_before_the_run() -> None:
    student = {"create": {}, "max_model_len": 512}
    config = parse({"name": "x", "seed_data": {"path": "a"}, "student": student, "train": {"sequence_length": 512}})
    assert over_length(config, Seed(sample=[row(5)])) is None
