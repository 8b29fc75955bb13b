"""Cross-contamination check: a student that reads earlier conversations of its packed sequence is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
)

from tapir_ray.config import Train
from tapir_ray.errors import StageError
from tapir_ray.train.batches import Packed, collate, in_one_row
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.cross_contamination import check_kept_apart
from tapir_ray.train.loss import response_loss

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
KV = {"num_key_value_heads": 2, "intermediate_size": 64}
APART = {
    "llama": LlamaConfig(**SIZES, **KV),
    "qwen2": Qwen2Config(**SIZES, **KV),
    "gemma2 with a window": Gemma2Config(**SIZES, **KV, head_dim=8, sliding_window=8),
    "mixtral": MixtralConfig(**SIZES, **KV, num_local_experts=4),
}
MIXED = {
    "opt": OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32, init_std=0.2),
    "falcon": FalconConfig(**SIZES),
}


class Reader:
    """A packed table of one sequence."""

    def __init__(self, row: Packed) -> None:
        self.row = row

    def take(self, indices: range) -> list[Packed]:
        return [self.row]


def row_of(length: int, seed: int = 0) -> Packed:
    ids = np.random.default_rng(seed).integers(3, VOCABULARY, length)
    return {
        "input_ids": ids,
        "labels": np.where(np.arange(length) < 3, IGNORED, ids),
        "position_ids": np.arange(length),
    }


def model_of(config: PretrainedConfig, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype).train()


def check(model: Any, length: int = 60, one_row: bool = False) -> None:
    check_kept_apart(model, torch.device("cpu"), Reader(row_of(length)), one_row, "owner/m")  # type: ignore[arg-type]
    assert model.training


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", APART)
def test_a_student_that_uses_position_ids_is_trained_packed(name: str, dtype: torch.dtype, attention: str) -> None:
    model = model_of(APART[name], dtype, attention)
    check(model)
    check(model, one_row=True)
    check(model, length=2)
    check(model, length=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MIXED)
def test_a_student_that_ignores_position_ids_is_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(StageError, match=r"owner/m does not keep .* apart: .* by \d+% with .*set train\.packing false"):
        check(model_of(MIXED[name], dtype))


@pytest.mark.parametrize("name", [*APART, *MIXED])
def test_an_unpacked_batch_is_the_sum_of_its_pairs_for_every_student(name: str) -> None:
    model = model_of({**APART, **MIXED}[name])
    rows = [row_of(length, seed=length) for length in (12, 40, 25)]

    def loss_and_gradient(parts: list[list[Packed]]) -> tuple[float, torch.Tensor]:
        model.eval().zero_grad()
        loss = sum(response_loss(model, collate(part, one_row=False)) for part in parts)
        assert isinstance(loss, torch.Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss.item(), torch.cat(gradients)

    loss, gradient = loss_and_gradient([rows])
    alone, expected = loss_and_gradient([[row] for row in rows])
    assert loss == pytest.approx(alone, rel=1e-5)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("packing", [True, False])
def test_only_packed_sequences_are_joined_into_one_row(packing: bool) -> None:
    """Without packing each pair has a sequence of its own, for students that would read earlier tokens of their row."""
    train = Train(attention="flash_attention_2", packing=packing)
    assert in_one_row(train) is packing
    assert not in_one_row(Train(attention="sdpa", packing=packing))
