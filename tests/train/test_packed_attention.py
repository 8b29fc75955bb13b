"""Attention within each packed conversation: the same numbers as under a mask, with less computation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config

from tapir_ray.train import packed_attention
from tapir_ray.train.batches import EMPTY, Packed, collate
from tapir_ray.train.packed_attention import attend_apart

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "mistral, a window of 3": MistralConfig(**SIZES, sliding_window=3),
    "gemma 3, layers with and without a window of 3": Gemma3TextConfig(
        **SIZES, sliding_window=3, layer_types=["sliding_attention", "full_attention"]
    ),
}
ROWS = [(7, 5, 9), (14,), (2, 1, 1, 8)]
"""Lengths in tokens of the conversations of each row."""


def rows() -> list[Packed]:
    rng = np.random.default_rng(0)
    found = []
    for lengths in ROWS:
        ids = rng.integers(1, 50, sum(lengths))
        position_ids = np.concatenate([np.arange(length) for length in lengths])
        found.append({"input_ids": ids, "labels": ids, "position_ids": position_ids})
    return found


def made(config: Any, apart: bool, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", **settings).train()
    if apart:
        attend_apart(model)
    return model


def logits_and_gradient(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the logits of all tokens but padding, and the gradient of a weighted sum of them."""
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    logits = model(**inputs, use_cache=False).logits
    logits = torch.cat([row[: sum(lengths)] for row, lengths in zip(logits, ROWS, strict=False)])
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the attentions that torch computes."""
    lengths: list[int] = []
    inner = packed_attention.sdpa_attention_forward

    def noted(module: Any, query: torch.Tensor, *given: Any, **settings: Any) -> Any:
        lengths.append(query.shape[2])
        return inner(module, query, *given, **settings)

    monkeypatch.setattr(packed_attention, "sdpa_attention_forward", noted)
    return lengths


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_separate_attention_equals_masked_attention(config: Any, checkpointing: bool, computed: list[int]) -> None:
    masked, apart = made(config, apart=False), made(config, apart=True)
    if checkpointing:
        apart.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    batch = collate(rows(), one_row=False)
    expected, expected_gradient = logits_and_gradient(masked, batch)
    assert set(computed) == {21}
    computed.clear()
    found, gradient = logits_and_gradient(apart, batch)
    longest = max(map(sum, ROWS))
    padded = [(*lengths, longest - sum(lengths)) if sum(lengths) < longest else lengths for lengths in ROWS]
    times = 4 if checkpointing else 2  # Layers; checkpointing computes each a second time in the backward pass.
    assert computed == [length for lengths in padded for length in lengths] * times
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (gradient - expected_gradient).norm() < 1e-5 * expected_gradient.norm()


def test_inputs_that_are_not_packed_are_attended_whole(computed: list[int]) -> None:
    """A single conversation, an empty batch, a call without positions, and a call that writes a cache and so gets no
    mask."""
    model = made(CONFIGS["llama"], apart=True).eval()
    packed, one, empty = (collate(some, one_row=False) for some in (rows(), rows()[1:2], [EMPTY]))
    for batch, names, use_cache, length in [
        (one, ("input_ids", "position_ids"), False, 14),
        (empty, ("input_ids", "position_ids"), False, 1),
        (packed, ("input_ids",), False, 21),
        (packed, ("input_ids", "position_ids"), True, 21),
    ]:
        computed.clear()
        model(**{name: batch[name] for name in names}, use_cache=use_cache)
        assert computed == [length] * 2  # Layers.


def test_another_model_in_the_process_is_unchanged(computed: list[int]) -> None:
    made(CONFIGS["llama"], apart=True)
    logits_and_gradient(made(CONFIGS["llama"], apart=False), collate(rows(), one_row=False))
    assert set(computed) == {21}
