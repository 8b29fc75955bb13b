"""The created student: an HF folder whose tokenizer loses no text and spends its ids on words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from tapir_ray.config import CreateModel
from tapir_ray.errors import InputError
from tapir_ray.train.create_student import create_student

SIZE = CreateModel(hidden_size=32, intermediate_size=64, layers=2, heads=2, vocab_size=1024, max_length=128)


def texts() -> list[str]:
    rng = random.Random(0)
    names = ["Anna", "Ben", "Carla", "David"]
    return [
        f"{rng.choice(names)} has {rng.randint(0, 999)} apples and buys {rng.randint(0, 99)} pears.\nHow many?"
        for _ in range(500)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("created") / "student")
    create_student(SIZE, texts(), path, None, seed=3)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: str) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_it_loads_and_has_an_end_token(folder: str, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) <= SIZE.vocab_size
    assert model.config.tie_word_embeddings and model.config.max_position_embeddings == 128
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.chat_template
    assert (Path(folder) / "model.safetensors").exists()


def test_a_frequent_word_is_one_token_and_a_number_its_digits(tokenizer: Any) -> None:
    tokens = [tokenizer.decode([i]) for i in tokenizer("Anna has 120 apples and buys 9 pears.\nHow many?")["input_ids"]]
    words = ["Anna", " has", " ", "1", "2", "0", " apples", " and", " buys", " ", "9", " pears", ".", "\n"]
    assert tokens == [*words, "How", " many", "?"]


def test_ids_are_not_spent_on_merges(tokenizer: Any) -> None:
    distinct_words = 11
    assert len(tokenizer) - 261 < 6 * distinct_words


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_decoding_returns_the_text(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_equal_seeds_give_equal_files_and_others_do_not(folder: str, tmp_path: Path) -> None:
    create_student(SIZE, texts(), str(tmp_path / "same"), None, seed=3)
    create_student(SIZE, texts(), str(tmp_path / "other"), None, seed=4)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "same" / file).read_bytes() == (Path(folder) / file).read_bytes()
    assert (tmp_path / "other/model.safetensors").read_bytes() != (Path(folder) / "model.safetensors").read_bytes()


def test_sizes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"student\.create\.vocab_size"):
        create_student(SIZE.model_copy(update={"vocab_size": 100}), texts(), str(tmp_path), None, 0)
    with pytest.raises(InputError, match=r"student\.create\.heads"):
        create_student(SIZE.model_copy(update={"heads": 3}), texts(), str(tmp_path), None, 0)
