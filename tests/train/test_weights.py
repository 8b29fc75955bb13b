"""Model folders: incomplete ones are refused by name before anything is spent, whole ones pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    Qwen3MoeConfig,
    RobertaConfig,
)

from tapir_ray.config import Classify, CreateModel, Student, Train
from tapir_ray.errors import InputError
from tapir_ray.llm.serve.application import check_model as check_served
from tapir_ray.train.classifier_check import check_classifier
from tapir_ray.train.create_classifier import create_classifier
from tapir_ray.train.create_student import create_student
from tapir_ray.train.student_check import check_student
from tapir_ray.train.weights import load_student

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 269060552\n"
SIZES = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 256}
TRAIN = Train(sequence_length=64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a created student with a single file of weights."""
    folder = tmp_path_factory.mktemp("weights") / "student"
    create_student(
        CreateModel(hidden_size=16, intermediate_size=32, layers=2, heads=2), ["one two"], str(folder), None, 0
    )
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "student"))


@pytest.fixture
def sharded(made: Path, tmp_path: Path) -> Path:
    """The same student with sharded weights."""
    target = Path(shutil.copytree(made, tmp_path / "sharded", ignore=shutil.ignore_patterns("*.safetensors")))
    AutoModelForCausalLM.from_pretrained(made).save_pretrained(target, max_shard_size="15KB")
    assert len(list(target.glob("*.safetensors"))) > 2
    return target


def check(folder: Path) -> list[str]:
    return check_student(Student(model=str(folder), max_model_len=64), TRAIN)


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as error:
        check(folder)
    assert "\n" not in str(error.value)
    for word in (str(folder), *words):
        assert word in str(error.value), str(error.value)


def test_whole_folders_pass(folder: Path, sharded: Path) -> None:
    assert check(folder) == check(sharded) == []
    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert check(folder) == []


def test_a_pointer_of_git_lfs_is_refused(folder: Path, sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_text(POINTER)
    refused(sharded, shard.name, "git lfs pull")
    (folder / "model.safetensors").write_text(POINTER)
    (folder / "tokenizer.json").write_text(POINTER)
    refused(folder, "model.safetensors is a pointer", "tokenizer.json is a pointer")


def test_a_missing_shard_is_refused(sharded: Path) -> None:
    first, second, *_ = sorted(sharded.glob("*.safetensors"))
    first.unlink()
    refused(sharded, first.name, "missing", "model.safetensors.index.json")
    first.write_bytes(second.read_bytes())
    refused(sharded, first.name, "lacks model.")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is not a folder")
    assert check_student(Student(model="owner/on-the-hub"), TRAIN) == [], "a hub name is resolved when it is loaded"


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights")
    (folder / "model.gguf").write_bytes(b"GGUF")
    refused(folder, "no weights", "model.gguf")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "merge it into its base model")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kept", [0, 5, 300, -100])
def test_a_truncated_file_is_refused(folder: Path, name: str, kept: int) -> None:
    if name == "pytorch_model.bin":
        torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / name)
        (folder / "model.safetensors").unlink()
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:kept])
    refused(folder, name, "cut short")


def test_a_missing_weight_is_refused_since_it_would_be_random(folder: Path) -> None:
    changed(folder, lambda weights: weights.pop("model.norm.weight"))
    refused(folder, "model.norm.weight", "random")
    changed(folder, lambda weights: [weights.pop(name) for name in list(weights) if "layers.1" in name])
    refused(folder, "weights (model.layers.1.", "and 6 more) are not in its files")


def test_an_unexpected_weight_is_refused_since_it_would_be_left_out(folder: Path) -> None:
    changed(folder, lambda weights: weights.update({"v_head.weight": torch.zeros(3)}))
    refused(folder, "v_head.weight", "left out")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    refused(folder, "model.layers.1.")


def test_buffers_of_old_checkpoints_do_not_count_as_weights(folder: Path) -> None:
    changed(folder, lambda found: found.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}))
    assert check(folder) == []


def test_a_weight_of_another_shape_is_refused(folder: Path) -> None:
    changed(folder, lambda found: found.update({"model.norm.weight": torch.zeros(7)}))
    refused(folder, "model.norm.weight", "[7]", "[16]")


def test_a_tokenizer_larger_than_its_embedding_is_refused(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<extra>", "<more>"])
    tokenizer.save_pretrained(folder)
    refused(folder, f"{rows + 2} tokens", "'<more>'", f"{rows} rows", f"resize_token_embeddings({rows + 2})")


def test_a_quantised_model_is_not_trained(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    refused(folder, "quantised (gptq)")


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**LLAMA, tie_word_embeddings=True),
        LlamaConfig(**LLAMA, tie_word_embeddings=False),
        GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=4),
        Qwen3MoeConfig(**LLAMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=8),
    ],
    ids=["tied", "untied", "gpt2", "moe"],
)
def test_models_with_tied_or_fused_weights_are_whole(tmp_path: Path, config: Any) -> None:
    """Weights that are tied, or fused when they are read, are not missing."""
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    student = Student(model=str(tmp_path))
    load_student(str(tmp_path), student, device_map="meta")
    changed(tmp_path, lambda weights: weights.pop(sorted(weights)[-1]))
    with pytest.raises(InputError, match="would be random"):
        load_student(str(tmp_path), student, device_map="meta")


def test_a_classifier_may_lack_its_head_only_if_it_is_fine_tuned(tmp_path: Path) -> None:
    made, base = tmp_path / "made", tmp_path / "base"
    size = CreateModel(hidden_size=32, intermediate_size=64, layers=1, heads=2, vocab_size=300, max_length=64)
    create_classifier(size, ["one two three"], ["a", "b"], str(made), 0)
    check_classifier(Classify(by="deberta", model=str(made)))
    config = DebertaV2Config.from_pretrained(made)
    AutoModelForMaskedLM.from_config(config).save_pretrained(base)
    AutoTokenizer.from_pretrained(made).save_pretrained(base)
    check_classifier(Classify(by="deberta", model=str(base), label_rows=10))
    with pytest.raises(InputError, match=r"classify\.model.*classifier\.bias.*classify\.label_rows"):
        check_classifier(Classify(by="deberta", model=str(base)))
    changed(base, lambda weights: weights.pop("deberta.embeddings.word_embeddings.weight"))
    with pytest.raises(InputError, match=r"deberta\.embeddings\.word_embeddings\.weight"):
        check_classifier(Classify(by="deberta", model=str(base), label_rows=10))
    (made / "model.safetensors").write_text(POINTER)
    with pytest.raises(InputError, match="git lfs pull"):
        check_classifier(Classify(by="deberta", model=str(made)))


def test_a_pooler_unknown_to_the_classifier_is_ignored(tmp_path: Path) -> None:
    size = CreateModel(hidden_size=32, intermediate_size=64, layers=1, heads=2, vocab_size=300, max_length=64)
    create_classifier(size, ["one two three"], ["a", "b"], str(tmp_path), 0)
    config = RobertaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_labels=2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    changed(tmp_path, lambda weights: weights.update({"roberta.pooler.dense.bias": torch.zeros(32)}))
    check_classifier(Classify(by="deberta", model=str(tmp_path), label_rows=10))


def test_a_local_teacher_with_truncated_files_is_refused(sharded: Path) -> None:
    check_served(str(sharded), "teacher.model")
    shard = sorted(sharded.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"teacher\.model.*{shard.name} is cut short"):
        check_served(str(sharded), "teacher.model")
