"""Contradictions between a model's config and a run's are found before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, GPTJConfig, LlamaConfig, OPTConfig

from tapir_ray.config import Student, Train
from tapir_ray.errors import InputError
from tapir_ray.train.model_config import check_model, check_trained

SIZES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
LLAMA = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}
GEMMA = {**LLAMA, "head_dim": 8}


def check(folder: Path, config: Any, length: int = 64, served: int = 64, **train: Any) -> None:
    config.save_pretrained(folder)
    student = Student(model=str(folder), max_model_len=served)
    check_model(student, Train(sequence_length=length, **train), str(folder))


def test_attention_that_ignores_the_models_cap_is_refused(tmp_path: Path) -> None:
    config = Gemma2Config(**GEMMA, attn_logit_softcapping=0.5)
    with pytest.raises(InputError, match=r"attn_logit_softcapping 0\.5.* set train\.attention eager"):
        check(tmp_path, config)
    check(tmp_path, config, attention="eager")
    check(tmp_path, Gemma2Config(**GEMMA, attn_logit_softcapping=None))


def test_only_sdpa_ignores_the_cap() -> None:
    """This is the reason for the refusal. If this test fails, transformers has fixed it."""
    config = Gemma2Config(**GEMMA, attn_logit_softcapping=0.5, initializer_range=1.0)
    ids = torch.arange(3, 40)[None]
    logits = {}
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
        with torch.no_grad():
            logits[attention] = model(input_ids=ids).logits
    assert (logits["sdpa"] - logits["eager"]).abs().max() > 1e-2


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=4, n_positions=64),
        GPTJConfig(vocab_size=97, n_embd=32, n_layer=1, n_head=4, n_positions=64, rotary_dim=4),
        OPTConfig(**SIZES, ffn_dim=64, max_position_embeddings=64, word_embed_proj_dim=32),
    ],
    ids=["gpt2", "gptj", "opt"],
)
def test_a_position_table_limits_the_sequence_length(tmp_path: Path, config: Any) -> None:
    check(tmp_path, config)
    with pytest.raises(InputError, match=r"train\.sequence_length 65 is above the 64 positions"):
        check(tmp_path, config, length=65)


def test_a_training_does_not_check_the_lengths_of_an_engine(tmp_path: Path) -> None:
    LlamaConfig(**LLAMA).save_pretrained(tmp_path)
    check_trained(Student(model=str(tmp_path), max_model_len=65), Train(), str(tmp_path))


def test_an_engine_reads_no_more_tokens_than_the_config_allows(tmp_path: Path) -> None:
    """A training may: rotary positions are computed."""
    check(tmp_path, LlamaConfig(**LLAMA), length=128)
    with pytest.raises(InputError, match=r"student\.max_model_len 65 is above the 64 tokens"):
        check(tmp_path, LlamaConfig(**LLAMA), served=65)
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    check(tmp_path, LlamaConfig(**LLAMA, rope_parameters=rope), served=256)
