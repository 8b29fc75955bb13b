"""The training step: its starting weights, the pairs its loss is measured on, and when it may continue."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tapir_ray.config import CreateModel
from tapir_ray.data.schemas import HOLDOUT, INSTRUCTIONS, OK, SEED, TRAINING, conform, instruction_id
from tapir_ray.errors import InputError
from tapir_ray.steps import train as steps_train
from tapir_ray.steps.train import (
    _refuse_other_workers,
    initial_sft,
    packed_holdout,
    student_after,
    train,
)
from tapir_ray.train.batches import PackedReader
from tapir_ray.train.create_student import create_student
from tapir_ray.train.lora import FOLDER
from tapir_ray.train.student import TrainResult
from tests.steps.contexts import context_for, rows_of, write
from tests.transforms.test_pack_stats import WHOLE

SIZE = CreateModel(hidden_size=32, intermediate_size=64, layers=1, heads=2, vocab_size=512, max_length=64)
RANK = 2
RESULT = TrainResult(
    steps=1, sequences=9, tokens=900, response_tokens=300, first_loss=2.0, last_loss=1.0, holdout_losses=[],
    holdout_pairs_before={}, holdout_pairs={}, losses=[2.0], seconds=1.0, startup_seconds=1.0, checkpoint="",
)  # fmt: skip


def test_the_holdout_loss_is_measured_only_on_holdout_rows(ray_local: None, tmp_path: Path) -> None:
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
    assert packed_holdout(context, context.loop.instructions, model) is None, (
        "a run with the user's own training set has no holdout"
    )
    packed = packed_holdout(context, context.loop.ingested, model)
    assert packed is not None
    held = {row["instruction_id"] for row in made if row["split"] == HOLDOUT and row["status"] == "ok"}
    assert {row["instruction_id"] for row in rows_of(context, "seed/holdout")} == held and len(held) == 4
    reader = PackedReader(packed, context.run.fs)
    assert len(reader.pair_ids(range(reader.sequences))) == 4
    assert context.run.manifest("seed/holdout_packed").extra["pairs"] == 4


def test_a_training_started_with_another_number_of_workers_is_refused_with_the_change(tmp_path: Path) -> None:
    run = context_for(tmp_path, write(tmp_path / "seed.jsonl", [])).run
    begun = "ray_train/round-01-abc-4"
    run.fs.create_dir(run.path(begun), recursive=True)
    _refuse_other_workers(run, "round-01-abc-2")
    run.fs.create_dir(run.path(f"{begun}/checkpoint_000001"), recursive=True)
    _refuse_other_workers(run, "round-01-abc-4")
    _refuse_other_workers(run, "round-01-def-2")
    with pytest.raises(InputError, match=r"replicas is 2, but .*round-01-abc-4 .* started with 4: set it to 4"):
        _refuse_other_workers(run, "round-01-abc-2")


def test_left_out_pairs_are_reported_when_they_are_packed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An imported training set and the holdout are packed unchecked: a third of one was once lost unnoticed."""
    context = context_for(tmp_path, write(tmp_path / "seed.jsonl", []))
    run = context.run
    tables: list[list[list[str]]] = []

    def pack(given: list[list[str]], *_: Any) -> Any:
        tables.append(given)
        return replace(WHOLE, over_length=30 * len(tables))

    monkeypatch.setattr(steps_train, "pack", pack)
    monkeypatch.setattr("tapir_ray.train.student.train_student", lambda *_, **__: RESULT)
    for table in ("seed/instructions", "seed/holdout", "rounds/01/training"):
        run.write_rows(table, conform([], TRAINING))
    run.publish("checkpoints/00", extra={"model": "m"})
    train(context, 1)
    assert tables == [[run.files("seed/holdout")], [run.files("rounds/01/training")]]
    stderr = capsys.readouterr().err
    assert "holdout: 30 of 100 pairs (30.0%) do not fit train.sequence_length and are left out" in stderr
    assert "round 1 train: 60 of 130 pairs (46.2%) do not fit" in stderr
    assert run.manifest("rounds/01/packed").extra == asdict(replace(WHOLE, over_length=60))


def query(folder: str) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model.layers[0].self_attn.q_proj.weight


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("initial", ["on", "off"])
def test_one_adapter_is_continued_through_the_rounds(ray_local: None, tmp_path: Path, initial: str) -> None:
    base = str(tmp_path / "base")
    create_student(SIZE, ["Say one two three."] * 20, base, None, 0)
    context = context_for(
        tmp_path,
        write(tmp_path / "seed.jsonl", [{"instruction": "unused", "output": "unused"}]),
        student={"model": base, "max_model_len": 64},
        train={
            "initial_sft": initial, "sequence_length": 64, "global_batch_size": 4, "precision": "float32",
            "learning_rate": 1e-2, "lora": {"rank": RANK, "alpha": 4, "between_rounds": "continue"},
        },
    )  # fmt: skip
    run = context.run
    rows = []
    for number in range(40):
        messages = [{"role": "user", "content": f"Say {number}."}]
        row = {"instruction_id": instruction_id(messages), "messages": messages, "response": f"{number} one two"}
        rows.append({**row, "split": SEED, "task": "Math", "status": OK})
    run.write_rows("seed/instructions", conform(rows, INSTRUCTIONS))
    initial_sft(context, context.loop.instructions)
    if initial == "off":
        assert student_after(context, 0) == base
    for number in (1, 2):
        table = conform([{**row, "pair_id": f"{number}-{at}", "pool": "hard"} for at, row in enumerate(rows)], TRAINING)
        run.write_rows(f"rounds/{number:02d}/training", table)
        train(context, number)

    trained = [number for number in (0, 1, 2) if student_after(context, number) != base]
    assert trained == ([0, 1, 2] if initial == "on" else [1, 2])
    for number in trained:
        written = json.loads(Path(student_after(context, number), FOLDER, "adapter_config.json").read_text())
        assert written["base_model_name_or_path"] == base
    first, last = (query(student_after(context, number)) for number in (trained[0], 2))
    assert not torch.equal(first, last)
    values = torch.linalg.svdvals(last - query(base))
    assert int((values > 1e-4 * values[0]).sum()) == RANK, "one product of rank 2, not one for each round"


@pytest.mark.parametrize(("schedule", "parts"), [("whole", [(1, 3), (2, 3), (3, 3)]), ("per_round", [(1, 1)] * 3)])
def test_rounds_share_a_schedule_if_it_is_whole_and_the_initial_sft_has_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, schedule: str, parts: list[tuple[int, int]]
) -> None:
    context = context_for(tmp_path, write(tmp_path / "seed.jsonl", []), train={"schedule": schedule})
    given: list[tuple[int, int]] = []

    def trained(*_: Any, **arguments: Any) -> TrainResult:
        given.append(arguments["schedule_part"])
        return RESULT

    monkeypatch.setattr(steps_train, "pack", lambda *_: WHOLE)
    monkeypatch.setattr("tapir_ray.train.student.train_student", trained)
    rounds = [f"rounds/{number:02d}/training" for number in (1, 2, 3)]
    for table in ("seed/instructions", "seed/holdout", "seed/training", *rounds):
        context.run.write_rows(table, conform([], TRAINING))
    loop = context.loop
    sft = steps_train.Training("sft", 0, [loop.sft_training], loop.sft_packed, loop.sft_checkpoint, "m")
    steps_train.fit(context, sft, 1, 1e-3, None)
    for number in (1, 2, 3):
        train(context, number)
    assert given == [(1, 1), *parts]


def test_marked_are_the_training_rows_of_the_initial_sft_and_not_the_holdout(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher answers the holdout in a style too, and students are measured on the instruction alone."""
    model = str(tmp_path / "model")
    create_student(SIZE, ["say 1 it is 2"] * 20, model, None, 0)
    student = {"model": model, "max_model_len": 64}
    sections = {"student": student, "train": {"sequence_length": 64, "initial_sft": "on"}, "rewrite": {"mark": True}}
    context = context_for(tmp_path, write(tmp_path / "seed.jsonl", []), seed_data={"responses": "fill"}, **sections)
    made = []
    for number in range(8):
        messages = [{"role": "user", "content": f"say {number}"}]
        row = {"instruction_id": instruction_id(messages), "messages": messages, "response": f"it is {number}"}
        split, style = (HOLDOUT if number < 4 else SEED), (None if number % 2 else "Be brief.")
        made.append({**row, "split": split, "style": style, "status": OK})
    context.run.write_rows("seed/instructions", conform(made, INSTRUCTIONS))
    monkeypatch.setattr(steps_train, "fit", lambda *_: None)
    initial_sft(context, context.loop.instructions)

    def prompts(table: str) -> dict[str, str]:
        return {row["instruction_id"]: row["messages"][-1]["content"] for row in rows_of(context, table)}

    ids = [row["instruction_id"] for row in made]
    assert prompts("seed/training") == dict(
        zip(ids[4:], ["say 4\n\nBe brief.", "say 5", "say 6\n\nBe brief.", "say 7"], strict=True)
    )
    assert prompts("seed/holdout") == {ids[n]: f"say {n}" for n in range(4)}
