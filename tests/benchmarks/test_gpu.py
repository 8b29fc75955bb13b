"""The GPU benchmark: its counts of FLOPs, its nested attention against masked attention, and how pieces are joined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.flops import Needed
from benchmarks.nested_attention import NestedAttention
from tests.benchmarks.scripts import script

HEADS, HEAD_SIZE, LAYERS = 4, 16, 2
CONFIG = LlamaConfig(
    hidden_size=HEADS * HEAD_SIZE,
    intermediate_size=96,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=2,
    vocab_size=100,
    tie_word_embeddings=False,
)


def model(attention: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG, attn_implementation=attention)


def test_the_needed_flops_are_those_counted_by_torch() -> None:
    """One conversation with every token in the loss; torch also counts masked pairs of tokens."""
    tokens, eager = 24, model("eager")
    with FlopCounterMode(display=False) as counter:
        eager(input_ids=torch.arange(tokens)[None], use_cache=False).logits.sum().backward()
    needed = Needed.of(eager)
    assert needed.a_pair == 12 * LAYERS * HEADS * HEAD_SIZE
    pairs = tokens * (tokens + 1) // 2
    masked = tokens**2 - pairs
    assert needed.flops(tokens, tokens, [tokens]) + needed.a_pair * masked == counter.get_total_flops()


def test_needed_flops_of_a_packed_sequence_are_the_sum_of_its_conversations() -> None:
    needed = Needed(layers=10, output=4, a_pair=3)
    apart = needed.flops(5, 2, [5]) + needed.flops(7, 3, [7])
    assert needed.flops(12, 5, [5, 7]) == apart < needed.flops(12, 5, [12])


def test_nested_attention_gives_the_logits_and_gradients_of_masked_attention() -> None:
    lengths = [5, 1, 9, 30, 2]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    ids = torch.randint(0, CONFIG.vocab_size, positions.shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for attention in ("sdpa", "nested"):
        llama = model(attention)
        if attention == "nested":
            NestedAttention.install(llama)
        logits = llama(input_ids=ids, position_ids=positions, use_cache=False).logits
        logits.square().sum().backward()
        found[attention] = [logits, *(weight.grad for weight in llama.parameters())]
    for masked, nested in zip(found["sdpa"], found["nested"], strict=True):
        torch.testing.assert_close(nested, masked, rtol=1e-4, atol=1e-5)


def piece(part: str, name: str, device: str = "a GPU", **figures: float) -> dict[str, Any]:
    return {"part": part, "name": name, "device": device, "figures": figures, "machine": f"with {device}",
            "versions": {"torch": "2"}, "date": "2026-01-02"}  # fmt: skip


def test_pieces_are_joined_to_ratios_with_the_gain_of_each_setting(tmp_path: Path) -> None:
    """The second measurement of a setting replaces the first."""
    gpu = script("gpu")
    pieces = [
        piece("train", "default", mfu=0.4, tokens_per_second=100.0),
        piece("train", "attention=nested", mfu=0.1, tokens_per_second=1.0),
        piece("train", "attention=nested", mfu=0.5, tokens_per_second=125.0),
        piece("train", "checkpointing=True", mfu=0.42, tokens_per_second=105.0),
        piece("infer", "stage", ratio=0.97),
    ]
    gpu.join(pieces, tmp_path / "gpu.json")
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["ratios"] == {
        "mfu": 0.42,
        "mfu default": 0.4,
        "mfu experimental": 0.5,
        "gain checkpointing=True": 1.05,
        "gain attention=nested": 1.25,
        "stage against LLM.chat": 0.97,
    }
    assert result["benchmark"] == "gpu" and result["machine"] == "with a GPU"


@pytest.mark.parametrize(
    ("pieces", "sentence"),
    [
        ([piece("train", "micro=8", mfu=0.4, tokens_per_second=1.0)], "default settings"),
        ([piece("train", "default", mfu=0.4), piece("infer", "stage", "another GPU")], "another GPU"),
        ([piece("train", "default", "cpu", mfu=0.4)], "without a GPU"),
    ],
)
def test_pieces_that_cannot_be_compared_are_not_joined(pieces: list[dict[str, Any]], sentence: str) -> None:
    gpu = script("gpu")
    with pytest.raises(SystemExit, match=sentence):
        gpu.join(pieces, gpu.RESULT)
