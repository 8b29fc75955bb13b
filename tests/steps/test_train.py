"""The training step: what it measures the loss on, and when it may go on from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapir_ray.config import CreateModel
from tapir_ray.errors import InputError
from tapir_ray.records import HOLDOUT, INSTRUCTIONS, SEED, conform, instruction_id
from tapir_ray.steps.train import HELD, HELD_PACKED, _packed_holdout, _refuse_other_workers
from tapir_ray.train.batches import PackedReader
from tapir_ray.train.create_student import create_student
from tests.steps.contexts import context_for, rows_of, write

SIZE = CreateModel(hidden_size=32, intermediate_size=64, layers=1, heads=2, vocab_size=300, max_length=64)


def test_the_loss_is_measured_on_the_holdout_alone(ray_local: None, tmp_path: Path) -> None:
    context = context_for(tmp_path, write(tmp_path / "seed.jsonl", []))
    made = []
    for number in range(20):
        messages = [{"role": "user", "content": f"say {number}"}]
        split = HOLDOUT if number % 4 == 0 else SEED
        row = {"instruction_id": instruction_id(messages), "messages": messages, "response": f"it is {number}"}
        made.append({**row, "split": split, "status": "filtered" if number == 8 else "ok"})
    context.run.write_rows("seed/ingested", conform(made, INSTRUCTIONS))
    model = str(tmp_path / "model")
    create_student(SIZE, ["say 1 it is 2"] * 20, model, None, 0)
    assert _packed_holdout(context, "seed/instructions", model) is None, "a run of the user's own training set"
    packed = _packed_holdout(context, "seed/ingested", model)
    assert packed is not None
    held = {row["instruction_id"] for row in made if row["split"] == HOLDOUT and row["status"] == "ok"}
    assert {row["instruction_id"] for row in rows_of(context, HELD)} == held and len(held) == 4
    reader = PackedReader(packed, context.run.fs)
    assert len(reader.pair_ids(range(reader.sequences))) == 4
    assert context.run.manifest(HELD_PACKED).extra["pairs"] == 4


def test_a_training_of_another_number_of_workers_is_refused_with_what_to_do(tmp_path: Path) -> None:
    run = context_for(tmp_path, write(tmp_path / "seed.jsonl", [])).run
    begun = "ray_train/round-01-abc-4"
    run.fs.create_dir(run.path(begun), recursive=True)
    _refuse_other_workers(run, "round-01-abc-2")
    run.fs.create_dir(run.path(f"{begun}/checkpoint_000001"), recursive=True)
    _refuse_other_workers(run, "round-01-abc-4")
    _refuse_other_workers(run, "round-01-def-2")
    with pytest.raises(InputError, match=r"replicas is 2, but .*round-01-abc-4 .* begun with 4: set it to 4"):
        _refuse_other_workers(run, "round-01-abc-2")
