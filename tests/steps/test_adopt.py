"""A user's own table in the place of a stage's: what can be derived is, what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tapir_ray.errors import InputError
from tapir_ray.records import SCORED, TRAINING, instruction_id, pair_id
from tapir_ray.steps.adopt import completed, own_table

MESSAGES = [{"role": "user", "content": "q"}]


def test_ids_and_statuses_are_filled_in() -> None:
    rows = pa.table({"messages": [MESSAGES], "response": ["a"]})
    (row,) = completed(rows, TRAINING.names, generated=False).to_pylist()
    assert row["instruction_id"] == instruction_id(MESSAGES)
    assert row["pair_id"] == pair_id(row["instruction_id"], 0)
    assert (row["status"], row["pool"], row["copy"]) == ("ok", "hard", 0)


def test_difficulty_follows_from_scores_and_given_columns_stay() -> None:
    scores = {"teacher_score": [9.0], "student_score": [4.0], "status": ["failed"]}
    rows = pa.table({"messages": [MESSAGES], **scores})
    (row,) = completed(rows, SCORED.names, generated=False).to_pylist()
    assert (row["mfd"], row["status"], row["split"]) == (5.0, "failed", "seed")


@pytest.mark.parametrize("start", ["train", "nowhere=x.parquet", "train=missing.parquet"])
def test_what_is_wrong_is_named(start: str) -> None:
    with pytest.raises(InputError, match=start.partition("=")[0]):
        own_table(start)


def test_a_table_of_its_kind_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("{}")
    assert own_table(f"train={path}") == ("train", str(path))
    assert own_table("") is None
