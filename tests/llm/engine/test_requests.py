"""Arguments of the student's engine: how much memory it takes on CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapir_ray.config import CreateModel, Replicas, Student
from tapir_ray.llm.engine.requests import KV_CACHE, KV_CACHE_BYTES, engine_arguments, engine_environment, tokenised
from tapir_ray.train.chat import encode_pair, load_tokenizer
from tapir_ray.train.create_student import create_student


def test_the_size_of_the_kv_cache_on_cpus_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable wins in vLLM, so it must not be set for a user who gives the argument."""
    replicas, given = Replicas(gpus=0), Student(model="m", engine_kwargs={"kv_cache_memory_bytes": 10**8})
    monkeypatch.delenv(KV_CACHE, raising=False)
    assert engine_arguments("m", Student(model="m"), replicas)["kv_cache_memory_bytes"] == KV_CACHE_BYTES
    assert engine_arguments("m", given, replicas)["kv_cache_memory_bytes"] == 10**8
    assert KV_CACHE not in engine_environment(replicas, None)
    monkeypatch.setenv(KV_CACHE, "4")
    assert "kv_cache_memory_bytes" not in engine_arguments("m", Student(model="m"), replicas)
    assert engine_environment(replicas, None)[KV_CACHE] == "4"


def test_an_answer_is_continued_after_the_tokens_that_a_training_gives_it(tmp_path: Path) -> None:
    """Another tokenisation of the prefix would be a text that the student has never been trained on."""
    folder = str(tmp_path / "student")
    size = CreateModel(hidden_size=32, intermediate_size=64, layers=1, heads=2, vocab_size=512, max_length=64)
    create_student(size, ["Count: 3 + 4 = 7 , 7 - 2 = 5 . answer : 5"] * 20, folder, None, 0)
    student, messages = Student(model=folder, max_model_len=64), [{"role": "user", "content": "Count:"}]
    tokenizer = load_tokenizer(folder, student)
    for begun, rest in (("3 + 4 = 7 , ", "7 - 2 = 5"), ("3 + 4 = 7\n", "7 - 2 = 5"), ("3 + 4", "= 7")):
        row = tokenised({"messages": messages, "answer_prefix": begun, "split": "seed"}, folder, student, 0, 3, 0.7)
        prompt, answer = encode_pair(tokenizer, messages, f"{begun}{rest}", {})
        given = row["tokenized_prompt"]
        assert given == [*prompt, *answer][: len(given)] and tokenizer.decode(given).endswith(begun.rstrip())
        assert len(given) + row["max_tokens"] <= 64 and row["samples"] == 3
    plain = tokenised({"messages": messages, "answer_prefix": None}, folder, student, 0)
    assert plain["tokenized_prompt"] == prompt
