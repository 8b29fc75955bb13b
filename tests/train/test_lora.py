"""Adapters: their trained weights, their files, and their next round, with real Ray Train and DeepSpeed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tapir_ray.config import Lora, Student
from tapir_ray.errors import InputError
from tapir_ray.train.lora import FOLDER, check_target_modules, with_adapter
from tests.train.pool import Pool, work_of
from tests.train.test_student import RATE, TRAIN, packed_folder, plain_training, run

LORA = Lora(rank=4, alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], between_rounds="continue")


@pytest.fixture(scope="module")
def packed(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed_folder(model, tmp_path_factory.mktemp("packed"))


def weights(folder: str) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())


def plain(model: str, packed: str, earlier: str | None = None, lora: Lora = LORA) -> list[float]:
    """Returns the losses of the same training without Ray and DeepSpeed, in one process."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return plain_training(with_adapter(base, lora, earlier), packed)


def change(after: dict[str, torch.Tensor], before: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return after[f"model.layers.1.{name}.weight"] - before[f"model.layers.1.{name}.weight"]


@pytest.mark.slow
def test_the_student_is_its_base_plus_the_adapters_product(
    ray_local: None, model: str, packed: str, tmp_path: Path
) -> None:
    result = run(model, packed, tmp_path, "lora", lora=LORA)
    assert result.losses == pytest.approx(plain(model, packed), rel=1e-4)
    assert result.last_loss < result.first_loss
    before, after = weights(model), weights(result.checkpoint)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) != any(f".{end}." in name for end in LORA.target_modules), name

    adapter = Path(result.checkpoint) / FOLDER
    parts = load_file(adapter / "adapter_model.safetensors")
    for name in ("self_attn.q_proj", "mlp.down_proj"):
        a, b = (parts[f"base_model.model.model.layers.1.{name}.lora_{part}.weight"] for part in "AB")
        torch.testing.assert_close(change(after, before, name), LORA.alpha / LORA.rank * b @ a, rtol=1e-4, atol=1e-6)
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == model
    assert "peft" not in (Path(result.checkpoint) / "config.json").read_text()


@pytest.mark.parametrize("between_rounds", ["merge", "continue"])
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_the_second_round_continues_the_adapter_of_the_first(
    pair: Pool, model: str, packed: str, tmp_path: Path, between_rounds: str, zero_stage: int
) -> None:
    lora = LORA.model_copy(update={"between_rounds": between_rounds})
    changes = {"lora": lora, "zero_stage": zero_stage, "gradient_checkpointing": zero_stage == 3}
    settings = TRAIN.model_copy(update=changes)
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    losses = pair.train(work_of(model, packed, settings, RATE), first)
    goes_on = between_rounds == "continue"
    second_losses = pair.train(work_of(first, packed, settings, RATE, model if goes_on else None), second)
    adapter = Path(first) / FOLDER
    assert adapter.exists() == (Path(second) / FOLDER).exists() == goes_on
    merged_losses = plain(first, packed, lora=lora)
    expected = plain(model, packed, str(adapter), lora) if goes_on else merged_losses
    assert second_losses == pytest.approx(expected, rel=1e-4)
    # Guards of this test: from scratch the loss starts as high as before, and both ways differ.
    assert second_losses[0] < (losses[0] + losses[-1]) / 2
    if goes_on:
        assert second_losses != pytest.approx(merged_losses, rel=1e-4)

    change_of_both = change(weights(second), weights(model), "self_attn.q_proj")
    values = torch.linalg.svdvals(change_of_both)
    rank = int((values > 1e-4 * values[0]).sum())
    assert rank == LORA.rank if goes_on else rank > LORA.rank


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_every_zero_stage_takes_the_steps_of_a_plain_loop(
    pair: Pool, model: str, packed: str, tmp_path: Path, zero_stage: int
) -> None:
    lora = Lora(rank=4, alpha=8)
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = TRAIN.model_copy(update={"lora": lora, "zero_stage": zero_stage, "precision": precision})
        losses[precision] = pair.train(work_of(model, packed, settings, RATE), str(tmp_path / precision))
    assert losses["float32"] == pytest.approx(plain(model, packed, lora=lora), rel=1e-4)
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_a_killed_worker_costs_only_the_steps_since_the_last_checkpoint(
    ray_local: None, model: str, packed: str, tmp_path: Path, zero_stage: int
) -> None:
    steps: list[int] = []
    killed: list[int] = []

    def on_progress(message: dict[str, Any]) -> None:
        steps.append(message["step"])
        if message["step"] >= 3 and not killed:
            killed.append(message["step"])
            os.kill(message["pid"], signal.SIGKILL)

    result = run(
        model, packed, tmp_path, "kill", lora=LORA, zero_stage=zero_stage, on_progress=on_progress, checkpoint_steps=1
    )
    assert killed
    assert min(steps[steps.index(killed[0]) + 1 :]) > 1, "it started from scratch"
    assert result.losses == pytest.approx(plain(model, packed), rel=1e-4)


def test_missing_modules_are_named_with_the_existing_ones(model: str) -> None:
    there = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    student = Student(model=model)
    for names, missing in ((["q_proj", "q_prj"], "q_prj"), (["lm_head", "embed_tokens"], "lm_head, embed_tokens")):
        for where in (model, None):
            with pytest.raises(
                InputError,
                match=rf"target_modules: .* has no linear module {missing}; name .*{there}, or set all-linear$",
            ):
                check_target_modules(student, Lora(target_modules=names), where)
    for good in ("all-linear", ["self_attn.q_proj", "up_proj"]):
        check_target_modules(student, Lora(target_modules=good), model)


def test_bad_modules_are_refused_before_a_worker_starts(
    ray_local: None, model: str, packed: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="name some of down_proj"):
        run(model, packed, tmp_path, "bad", lora=Lora(target_modules=["query"]))
    assert not (tmp_path / "ray_train").exists()


def test_a_new_adapter_changes_no_output_and_only_it_is_trained(model: str) -> None:
    base = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.arange(9)[None]
    before = base(input_ids=ids).logits
    adapted = with_adapter(base, Lora())
    torch.testing.assert_close(adapted(input_ids=ids).logits, before)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained and all(".lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
