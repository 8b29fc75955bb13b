"""The folder that is written at the end of a training, for bases whose own files transformers would not write."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs as pafs
import pytest
from transformers import AutoModelForCausalLM, GenerationConfig

from tapir_ray.config import CreateModel, Student, Train
from tapir_ray.train.create_student import create_student
from tapir_ray.train.engine import deepspeed_config, export
from tapir_ray.train.work import Work

SIZE = CreateModel(hidden_size=16, intermediate_size=32, layers=1, heads=2)


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
def test_flags_of_sampling_in_the_base_do_not_stop_the_export(
    tmp_path: Path, brought: dict[str, Any], samples: bool | None, temperature: float | None
) -> None:
    """`temperature` without `do_sample` is in many a base's folder; it is refused where it would be written again."""
    base, folder = str(tmp_path / "base"), str(tmp_path / "exported")
    create_student(SIZE, ["What is 3 + 4? It is 7."] * 9, base, None, 0)
    (tmp_path / "base/generation_config.json").write_text(json.dumps(brought))
    work = Work(
        packed_dir="",
        holdout_dir=None,
        storage_dir="",
        fs=pafs.LocalFileSystem(),
        init_model=base,
        base_model=None,
        student=Student(model=base),
        train=Train(),
        learning_rate=1e-3,
        epochs=1,
        random_seed=0,
        progress=None,
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    export(SimpleNamespace(module=model), work, folder, first=True)
    written = GenerationConfig.from_pretrained(folder)
    assert (written.do_sample, written.temperature) == (samples, temperature)
    assert written.top_p == brought.get("top_p")
    assert (written.eos_token_id, written.pad_token_id) == (4, 0)
    written.save_pretrained(str(tmp_path / "again"))


@pytest.mark.parametrize(
    ("world", "precision", "asked", "used"),
    [(1, "float32", 2, 0), (1, "float32", 3, 3), (1, "bfloat16", 2, 2), (2, "float32", 2, 2), (2, "float32", 1, 1)],
)
def test_a_lone_worker_shares_optimizer_and_gradients_with_nobody(
    world: int, precision: Any, asked: Any, used: int
) -> None:
    config = deepspeed_config(Train(zero_stage=asked, precision=precision), world)
    assert config["zero_optimization"]["stage"] == used
