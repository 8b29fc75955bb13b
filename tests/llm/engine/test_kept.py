"""Kept engines: the weights of a running engine are replaced, and the rows are those of a new engine."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray.data

from tapir_ray.cluster.interrupt import interruptible
from tapir_ray.config import CreateModel, Replicas, Sampling, Student
from tapir_ray.data.schemas import ID, SCORED, conform
from tapir_ray.errors import StageError
from tapir_ray.llm.engine import kept_stage, vllm_stage
from tapir_ray.llm.engine.base import StudentWork
from tapir_ray.llm.engine.health import last_lines, stopped_if_dying
from tapir_ray.llm.engine.kept import KeptEngines, Order, identity_of
from tapir_ray.llm.engine.watchdog import ENGINE_CORE, _title, is_alive
from tapir_ray.train.create_student import create_student

REPLICAS = Replicas(cpus=1)
ARGUMENTS: dict[str, Any] = {"dtype": "float32"}


def create(folder: Path, seed: int, tied: bool = True, layers: int = 2) -> str:
    """Returns the folder of a student whose greedy answers depend on its seed."""
    size = CreateModel(hidden_size=64, intermediate_size=128, layers=layers, heads=2, initializer_range=0.3)
    create_student(size, ["What is two plus two? Be brief."] * 9, str(folder), None, seed)
    if not tied:
        import torch
        from transformers import AutoModelForCausalLM, LlamaForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder)
        model.config.tie_word_embeddings = False
        torch.manual_seed(seed + 100)
        untied = LlamaForCausalLM(model.config)
        untied.generation_config = model.generation_config
        untied.save_pretrained(folder)
    return str(folder)


def table() -> ray.data.Dataset:
    turns = [[{"role": "user", "content": f"What is {n}?" if n else "two " * 90}] for n in range(24)]
    rows = conform([{ID[0]: str(n), "messages": turn, "status": "ok"} for n, turn in enumerate(turns)], SCORED)
    return ray.data.from_arrow(rows)


def student_of(model: str) -> Student:
    return Student(
        model=model,
        dtype="float32",
        max_model_len=64,
        sampling=Sampling(temperature=0.0, max_tokens=8),
        engine_kwargs={"max_num_seqs": 16},
        batch_size=8,
    )


def rows_of(answers: ray.data.Dataset) -> list[dict[str, Any]]:
    return sorted(conform(answers.take_all(), SCORED).to_pylist(), key=lambda row: int(row["instruction_id"]))


@pytest.fixture
def engines(ray_local: None, tmp_path: Path) -> Iterator[KeptEngines]:
    engines = KeptEngines(REPLICAS, str(tmp_path / "processes"))
    yield engines
    engines.stop()


def work_of(model: str, samples: int = 0, engines: KeptEngines | None = None) -> StudentWork:
    handles = None if engines is None else engines.handles()
    return StudentWork(model, student_of(model), REPLICAS, 0.1, 1, samples=samples, temperature=0.7, engines=handles)


def asked(engines: KeptEngines, model: str, samples: int = 0) -> list[dict[str, Any]]:
    return rows_of(kept_stage.generate(table(), work_of(model, samples, engines)))


def recorded(tmp_path: Path) -> list[dict[str, Any]]:
    """Returns the records of all processes of the engines, in the order of their start."""
    entries = [json.loads(file.read_text()) for file in (tmp_path / "processes").glob("*.json")]
    return sorted(entries, key=lambda entry: entry["started"])


def workers(tmp_path: Path) -> list[dict[str, Any]]:
    return [entry for entry in recorded(tmp_path) if entry["worker"]]


def kill(entry: dict[str, Any]) -> None:
    psutil.Process(entry["pid"]).kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tied", [True, False])
def test_new_weights_answer_as_a_new_engine_does(engines: KeptEngines, tmp_path: Path, tied: bool) -> None:
    """On CPUs vLLM itself leaves the output layer of a tied model at its old weights."""
    first, second = (create(tmp_path / f"student-{seed}", seed, tied) for seed in (1, 2))
    before = asked(engines, first, samples=2)
    after = asked(engines, second, samples=2)
    fresh = rows_of(vllm_stage.generate(table(), work_of(second, samples=2)))
    assert after == fresh
    assert [row["student_response"] for row in before] != [row["student_response"] for row in after]
    assert asked(engines, first, samples=2) == before
    assert len(workers(tmp_path)) == 1, f"an engine was started a second time: {last_lines(workers(tmp_path)[:1])}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_dead_engine_is_replaced_and_none_is_left_at_the_end(engines: KeptEngines, tmp_path: Path) -> None:
    first, deeper = create(tmp_path / "student", 1), create(tmp_path / "deeper", 1, layers=3)
    before = asked(engines, first)
    assert [row["status"] for row in before] == ["filtered", *["ok"] * 23]
    (core,) = [entry for entry in recorded(tmp_path) if ENGINE_CORE in _title(entry["pid"])]
    kill(core)
    assert asked(engines, first) == before
    kill(workers(tmp_path)[-1])
    assert asked(engines, first) == before
    assert len(workers(tmp_path)) == 3
    # Its weights do not fit into the engine: another one is started.
    assert asked(engines, deeper) != before
    assert len(workers(tmp_path)) == 4
    engines.stop()
    deadline = time.monotonic() + 30
    while left := [entry["pid"] for entry in recorded(tmp_path) if is_alive(entry)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_engine_that_cannot_start_ends_the_run_with_its_log(engines: KeptEngines, tmp_path: Path) -> None:
    model, processes = create(tmp_path / "student", 1), str(tmp_path / "processes")
    # A prompt is read in one step, so vLLM refuses steps shorter than the longest prompt.
    student = student_of(model).model_copy(update={"engine_kwargs": {"max_num_batched_tokens": 8}})
    work = dataclasses.replace(work_of(model, engines=engines), student=student)
    answers = kept_stage.generate(table(), work)
    refused = pytest.raises(
        StageError, match=r"could not be started: .*max_num_batched_tokens \(8\).*its log:\n(.|\n)*Traceback"
    )
    with refused, interruptible(), stopped_if_dying(processes, 1, lambda: 0):
        answers.take_all()


def test_only_models_of_one_kind_take_turns_in_an_engine(tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    Path(first).mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "dtype": "float32", "transformers_version": "5.0.0"}
    for name, content in (("config.json", config), ("tokenizer.json", {"version": "1"})):
        (Path(first) / name).write_text(json.dumps(content))
    shutil.copytree(first, second)
    order = Order(first, ARGUMENTS, REPLICAS)
    kind = identity_of(first, order)
    assert kind is not None and identity_of(second, order) == kind
    # Training writes these with another library, or in other floats.
    _change(second, "config.json", transformers_version="4.0.0", dtype="bfloat16")
    assert identity_of(second, order) == kind
    as_stored = Order(first, {"dtype": "auto"}, REPLICAS)
    assert identity_of(second, as_stored) != identity_of(first, as_stored)
    for change in ({"rope_theta": 5.0}, {"tie_word_embeddings": False}):
        other = str(tmp_path / next(iter(change)))
        shutil.copytree(first, other)
        _change(other, "config.json", **change)
        assert identity_of(other, order) not in (kind, None)
    _change(second, "tokenizer.json", version="2")
    assert identity_of(second, order) != kind, "the engine turns tokens into text"
    _change(first, "config.json", quantization_config={"quant_method": "fp8"})
    assert identity_of(first, order) is None
    assert identity_of("owner/model", order) is None


def _change(folder: str, name: str, **values: Any) -> None:
    file = Path(folder) / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
