"""DeepSpeed's engine: its sums of gradients, its attention, and the folder exported at the end of a training.

Some bases have files of their own that transformers would not write.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch
from torch import distributed
from transformers import AutoModelForCausalLM, Gemma3Config, GenerationConfig

from tapir_ray.config import CreateModel, Lora, Student, Train
from tapir_ray.train import packed_attention
from tapir_ray.train.create_student import create_student
from tapir_ray.train.engine import deepspeed_config, engine_of, export
from tapir_ray.train.loss import response_loss
from tapir_ray.train.work import Work

SIZE = CreateModel(hidden_size=16, intermediate_size=32, layers=1, heads=2)


def work_of(base: str, train: Train) -> Work:
    return Work(
        packed_dir="",
        holdout_dir=None,
        storage_dir="",
        fs=pafs.LocalFileSystem(),
        init_model=base,
        base_model=None,
        student=Student(model=base),
        train=train,
        learning_rate=1e-3,
        epochs=1,
        random_seed=0,
        progress=None,
    )


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_gradients_of_micro_batches_are_summed_in_32_bits(tmp_path: Path, zero_stage: Any) -> None:
    """A sum of 64 of them in 16 bits is off by 0.8 %."""
    base = str(tmp_path / "base")
    create_student(SIZE, ["What is 3 + 4? It is 7."] * 9, base, None, 0)
    # DeepSpeed keeps the first process group of a process, so each case has a process of its own.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        apart = pool.submit(apart_from_the_sum, base, zero_stage).result(timeout=300)
    assert all(share < 1e-4 for share in apart.values()), apart


def apart_from_the_sum(base: str, zero_stage: Any, count: int = 64) -> dict[str, float]:
    """Returns, for each weight, the relative error of DeepSpeed's gradient of `count` micro-batches in bfloat16.

    The reference is the float32 sum of the same model's gradients for each micro-batch.
    """
    os.environ["LOCAL_RANK"] = "0"
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    from deepspeed.utils import safe_get_full_grad

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).train()
    plain = copy.deepcopy(model)
    added = {name: torch.zeros(weight.shape) for name, weight in plain.named_parameters()}
    train = Train(precision="bfloat16", zero_stage=zero_stage, global_batch_size=count, micro_batch_size=1)
    engine = engine_of(model, work_of(base, train), torch.device("cpu"), fused=False)
    torch.manual_seed(0)
    for number in range(count):
        ids = torch.randint(5, 100, (1, 32))
        batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(32)[None]}
        engine.backward(response_loss(engine, batch))
        if number < count - 1:
            engine.step()
        plain.zero_grad()
        response_loss(plain, batch).backward()
        for name, weight in plain.named_parameters():
            added[name] += weight.grad.float()
    found = {name: safe_get_full_grad(weight).float() * count for name, weight in engine.module.named_parameters()}
    return {name: float((found[name] - sum_).norm() / sum_.norm()) for name, sum_ in added.items()}


@pytest.mark.slow
def test_an_engine_on_cpus_attends_within_each_packed_conversation(tmp_path: Path) -> None:
    """The same holds with an adapter and with sharded weights. Unpacked rows are attended whole."""
    base = str(tmp_path / "base")
    create_student(SIZE, ["What is 3 + 4? It is 7."] * 9, base, None, 0)
    trains = [
        Train(precision="float32", zero_stage=2),
        Train(precision="float32", zero_stage=2, lora=Lora()),
        Train(precision="float32", zero_stage=3),
        Train(precision="float32", zero_stage=2, packing=False),
    ]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(attended, base, trains).result(timeout=300)
    assert found == [[5, 7], [5, 7], [5, 7], [12]]


def attended(base: str, trains: list[Train]) -> list[list[int]]:
    """Returns, for each training, the lengths attended in one layer of a row with conversations of 5 and 7 tokens."""
    os.environ["LOCAL_RANK"] = "0"
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    lengths: list[int] = []
    inner = packed_attention.sdpa_attention_forward

    def noted(module: Any, query: torch.Tensor, *given: Any, **settings: Any) -> Any:
        lengths.append(query.shape[2])
        return inner(module, query, *given, **settings)

    packed_attention.sdpa_attention_forward = noted
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    found = []
    for train in trains:
        model = AutoModelForCausalLM.from_pretrained(base)
        engine = engine_of(model, work_of(base, train), torch.device("cpu"), fused=False)
        lengths.clear()
        engine(input_ids=torch.full((1, 12), 5), position_ids=positions, use_cache=False)
        found.append([*lengths])
    return found


@pytest.mark.parametrize(
    ("brought", "samples", "temperature"),
    [
        ({"temperature": 0.9, "top_p": 0.6}, True, 0.9),
        ({"do_sample": True, "temperature": 0.9}, True, 0.9),
        ({"do_sample": False, "temperature": 0.9, "min_p": 0.1}, False, None),
        ({"temperature": 0.0}, False, None),
        ({"temperature": 1.0, "top_k": 50}, None, 1.0),
        ({"pad_token_id": -1}, None, None),
    ],
)
def test_sampling_flags_of_the_base_do_not_stop_the_export(
    tmp_path: Path, brought: dict[str, Any], samples: bool | None, temperature: float | None
) -> None:
    """Many folders have a `temperature` without `do_sample`, which transformers refuses to write again."""
    base, folder = str(tmp_path / "base"), str(tmp_path / "exported")
    create_student(SIZE, ["What is 3 + 4? It is 7."] * 9, base, None, 0)
    (tmp_path / "base/generation_config.json").write_text(json.dumps(brought))
    model = AutoModelForCausalLM.from_pretrained(base)
    export(SimpleNamespace(module=model), work_of(base, Train()), folder, first=True)
    written = GenerationConfig.from_pretrained(folder)
    assert (written.do_sample, written.temperature) == (samples, temperature)
    assert written.top_p == brought.get("top_p")
    assert (written.eos_token_id, written.pad_token_id) == (4, 0)
    written.save_pretrained(str(tmp_path / "again"))


def test_the_processor_files_of_a_multimodal_model_are_copied(tmp_path: Path) -> None:
    """Its engine reads them at its start, also for text alone: without them the next round could not score."""
    base, folder = tmp_path / "base", tmp_path / "exported"
    create_student(SIZE, ["What is 3 + 4? It is 7."] * 9, str(base), None, 0)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**layers, "vocab_size": 300, "head_dim": 8, "num_key_value_heads": 1}
    config = Gemma3Config(text_config=text, vision_config={**layers, "image_size": 28, "patch_size": 14})
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(base)
    (base / "preprocessor_config.json").write_text('{"size": 28}')
    export(SimpleNamespace(module=model), work_of(str(base), Train()), str(folder), first=True)
    assert (folder / "preprocessor_config.json").read_text() == '{"size": 28}'
    assert not (folder / "processor_config.json").exists()


@pytest.mark.parametrize(
    ("world", "precision", "asked", "used"),
    [(1, "float32", 2, 0), (1, "float32", 3, 3), (1, "bfloat16", 2, 2), (2, "float32", 2, 2), (2, "float32", 1, 1)],
)
def test_a_single_worker_does_not_shard_optimizer_and_gradients(
    world: int, precision: Any, asked: Any, used: int
) -> None:
    config = deepspeed_config(Train(zero_stage=asked, precision=precision), world)
    assert config["zero_optimization"]["stage"] == used
