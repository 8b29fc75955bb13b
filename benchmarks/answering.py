"""Times the student stage and `vllm.LLM.chat` in turn on the same prompts, for infer.py and gpu_infer.py.

    time_answers()
    ratio, figures = compared(Asked(folder, student, replicas, texts), rounds=2)

The stage is timed from the first prompt in its engine to the last block out, `LLM.chat` from the call to its return.
Engine starts are reported separately.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data

from tapir_ray.config import CreateModel, Replicas, Student
from tapir_ray.data import schemas
from tapir_ray.llm.engine import vllm_stage as student_stage
from tapir_ray.llm.engine.base import StudentWork
from tapir_ray.llm.engine.requests import engine_arguments
from tapir_ray.train.create_student import create_student

TRANSFORM_CPUS = 0.1
FREE_S = 120
"""Seconds to wait for free GPU memory after an engine on it has ended."""

kept, build_processor = student_stage.collect, student_stage.build_processor


@dataclass(frozen=True)
class Asked:
    """Model folder, resources and prompts of a measurement."""

    model: str
    """Folder as `create` writes it: greedy answers have the maximum number of tokens."""
    student: Student
    replicas: Replicas
    texts: list[str]


def create(size: CreateModel, texts: list[str], folder: str, dtype: str = "float32") -> str:
    """Writes a Llama with random weights that never generates its end token, and returns its folder."""
    import torch
    from transformers import AutoModelForCausalLM

    create_student(size, texts, folder, None, seed=0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    with torch.no_grad():
        # Embedding and output layer share weights: the end token gets logit 0, never the largest of thousands.
        model.get_input_embeddings().weight[model.config.eos_token_id] = 0.0
    model.save_pretrained(folder)
    return folder


def compared(asked: Asked, rounds: int) -> tuple[float, dict[str, Any]]:
    """Returns (ratio of the median rates in tokens per second, figures); each round starts new engines."""
    measured: dict[str, list[dict[str, Any]]] = {"stage": [], "llm_chat": []}
    for _ in range(rounds):
        measured["stage"].append(by_stage(asked))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            measured["llm_chat"].append(pool.submit(by_engine, asked).result())
    said = {outcome["tokens"] for outcomes in measured.values() for outcome in outcomes}
    assert said == {len(asked.texts) * asked.student.sampling.max_tokens}, f"tokens said differ: {said}"
    rates = {
        name: [outcome["tokens"] / outcome["seconds"] for outcome in outcomes] for name, outcomes in measured.items()
    }
    median = {name: statistics.median(values) for name, values in rates.items()}
    pairs = zip(measured["stage"][0]["answers"], measured["llm_chat"][0]["answers"], strict=True)
    return median["stage"] / median["llm_chat"], {
        "rows": len(asked.texts),
        "tokens_per_second": {name: round(value, 1) for name, value in median.items()},
        "rounds": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "engine_start_seconds": {
            name: [round(outcome["start"], 1) for outcome in outcomes] for name, outcomes in measured.items()
        },
        "same_answers": round(sum(ours == theirs for ours, theirs in pairs) / len(asked.texts), 4),
    }


def by_stage(asked: Asked) -> dict[str, Any]:
    """Returns seconds of engine start and of answering, tokens and answers of the student stage."""
    rows = [{"instruction_id": str(n), "messages": [user(text)], "status": "ok"} for n, text in enumerate(asked.texts)]
    answered, start, seconds = answers_of(
        asked.model, asked.student, asked.replicas, schemas.conform(rows, schemas.INSTRUCTIONS)
    )
    assert set(answered["status"].to_pylist()) == {schemas.OK}, answered["reason"].to_pylist()
    answers = dict(zip(answered["instruction_id"].to_pylist(), answered["student_response"].to_pylist(), strict=True))
    return {
        "start": start,
        "seconds": seconds,
        "tokens": told(answered)[1],
        "answers": [answers[str(number)] for number in range(len(asked.texts))],
    }


def answers_of(model: str, student: Student, replicas: Replicas, table: pa.Table) -> tuple[pa.Table, float, float]:
    """Returns (the table's rows with answers, seconds of engine start, seconds of answering)."""
    called, rows = time.time(), ray.data.from_arrow(table)
    work = StudentWork(model, student, replicas, TRANSFORM_CPUS, random_seed=0)
    answered, ended = consumed(student_stage.generate(rows, work))
    began = told(answered)[0]
    return answered, began - called, ended - began


def by_engine(asked: Asked) -> dict[str, Any]:
    """Measures `vllm.LLM.chat` as `by_stage` does. Call it in a new process, which ends with its engine."""
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    if asked.replicas.gpus:
        wait_for_memory(0.9)
    called = time.time()
    # The start includes the import, as it does for the stage.
    from vllm import LLM, SamplingParams

    llm = LLM(model=asked.model, **engine_arguments(asked.model, asked.student, asked.replicas))
    began = time.time()
    sampling = SamplingParams(temperature=0.0, max_tokens=asked.student.sampling.max_tokens, seed=0)
    outputs = llm.chat([[user(text)] for text in asked.texts], sampling, use_tqdm=False)
    return {
        "start": began - called,
        "seconds": time.time() - began,
        "tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        "answers": [output.outputs[0].text.strip() for output in outputs],
    }


def wait_for_memory(share: float) -> None:
    """Waits until this share of the GPU is free: an engine that starts while another frees memory miscounts its own."""
    import torch

    deadline = time.time() + FREE_S
    while time.time() < deadline:
        free, total = torch.cuda.mem_get_info()
        if free >= share * total:
            return
        time.sleep(1)
    raise RuntimeError(f"less than {share:.0%} of the GPU's memory is free after {FREE_S} s: another process is on it")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def consumed(rows: ray.data.Dataset) -> tuple[pa.Table, float]:
    """Returns (all rows, time at which the last came out)."""
    blocks = []
    for block in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        blocks.append(schemas.conform(block, schemas.SCORED))
        ended = time.time()
    return pa.concat_tables(blocks), ended


def told(rows: pa.Table) -> tuple[float, int]:
    """Returns (time of the engine's first prompt, tokens generated)."""
    metas = [json.loads(meta) for meta in rows["meta"].to_pylist()]
    return min(meta["arrived"] for meta in metas), sum(meta["tokens"] for meta in metas)


def time_answers() -> None:
    """Makes the student stage record times and tokens in its rows, for `told`."""
    student_stage.collect, student_stage.build_processor = collect, timed_processor


def collect(row: dict[str, Any], columns: list[str], marks: Any) -> dict[str, Any]:
    """Returns the stage's row with the time of the request and the number of generated tokens in `meta`."""
    noted = {"arrived": row["metrics"]["arrived"], "tokens": row["num_generated_tokens"]}
    return {**kept(row, columns, marks), "meta": json.dumps(noted)}


class Timed:
    """Mixin for Ray's engine worker that adds the time of the request to its answers."""

    async def _generate_with_error_handling(self, row: dict[str, Any], batch_uuid: Any) -> dict[str, Any]:
        arrived = time.time()
        said = await super()._generate_with_error_handling(row, batch_uuid)  # type: ignore[misc]
        return {**said, "metrics": {"arrived": arrived}}


def timed_processor(*args: Any, **kwargs: Any) -> Any:
    processor = build_processor(*args, **kwargs)
    stage = processor.get_stage_by_name("vLLMEngineStage")
    timed = type(stage.fn.__name__, (Timed, stage.fn), {})
    processor.stages["vLLMEngineStage"] = stage.model_copy(update={"fn": timed})
    return processor
