"""The student stage against `vllm.LLM.chat` on one device: what `gpu.py infer` measures.

    figures = measure("1.1B", torch.device("cuda"), rounds=2)

The same prompts and engine arguments, greedy, in turn, engine starts apart, as benchmarks/infer.py does it: the stage
counts from the first prompt that its engine got to the last block out, `LLM.chat` from the call to its return. A Llama
with random weights that never says its end token; prompts of random words.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.data
import torch

from benchmarks.infer import consumed, time_answers, told, user
from benchmarks.result import start_ray
from tapir_ray import records
from tapir_ray.config import CreateModel, Replicas, Student
from tapir_ray.llm import vllm as student_stage
from tapir_ray.train.create_student import create_student

STAGE_CPUS = 0.1
FREE_S = 120
"""How long an engine's memory is waited for after it is gone."""


@dataclass(frozen=True)
class Job:
    """A model and what it is asked."""

    model: CreateModel
    rows: int
    new_tokens: int
    dtype: str
    engine: dict[str, Any]
    """Arguments whose defaults differ between the two ways to start an engine, or by what else is on the device."""

    def student(self, folder: str) -> Student:
        return Student(
            model=folder,
            dtype=self.dtype,  # type: ignore[arg-type]
            max_model_len=self.model.max_length,
            sampling={"temperature": 0.0, "max_tokens": self.new_tokens},  # type: ignore[arg-type]
            engine_kwargs=self.engine,
            batch_size=64,
        )


JOBS = {
    "1.1B": Job(
        CreateModel(hidden_size=2048, intermediate_size=8192, layers=16, heads=16, vocab_size=32_000, max_length=1024),
        rows=4096,
        new_tokens=256,
        dtype="bfloat16",
        engine={"max_num_seqs": 256, "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.6},
    ),
    "tiny": Job(
        CreateModel(hidden_size=128, intermediate_size=256, layers=2, heads=2, vocab_size=1024, max_length=256),
        rows=128,
        new_tokens=32,
        dtype="float32",
        engine={"max_num_seqs": 64, "max_num_batched_tokens": 4096},
    ),
}


def measure(size: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """`ratio` of the median rates in tokens a second, the rates of all rounds, and seconds of engine start."""
    job, root = JOBS[size], str(Path(__file__).absolute().parents[1])
    # Ray's workers and the engine's process take what is measured from here.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    folder = Path(tempfile.mkdtemp(prefix="gpu-", dir="/tmp"))
    measured: dict[str, list[dict[str, Any]]] = {"stage": [], "llm_chat": []}
    try:
        texts = prompts(job.rows)
        model = make(job, texts, str(folder / "model"))
        start_ray(folder)
        time_answers()
        for _ in range(rounds):
            measured["stage"].append(by_stage(job, model, device.type, texts))
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                measured["llm_chat"].append(pool.submit(by_engine, job, model, device.type, texts).result())
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    said = {outcome["tokens"] for outcomes in measured.values() for outcome in outcomes}
    assert said == {job.rows * job.new_tokens}, f"tokens said differ: {said}"
    rates = {name: [one["tokens"] / one["seconds"] for one in outcomes] for name, outcomes in measured.items()}
    return {
        "ratio": statistics.median(rates["stage"]) / statistics.median(rates["llm_chat"]),
        "tokens_per_second": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "engine_start_seconds": {
            name: [round(one["start"], 1) for one in outcomes] for name, outcomes in measured.items()
        },
        "rows": job.rows,
        "new_tokens": job.new_tokens,
    }


def prompts(rows: int) -> list[str]:
    """Random words, about as many a prompt as Alpaca's instructions have."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    return [" ".join(rng.choices(words, k=min(100, max(1, round(rng.lognormvariate(2.9, 0.5)))))) for _ in range(rows)]


def make(job: Job, texts: list[str], folder: str) -> str:
    """The folder of a student that never says its end token."""
    from transformers import AutoModelForCausalLM

    create_student(job.model, texts, folder, None, seed=0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, job.dtype))
    with torch.no_grad():
        # The same weights read tokens and choose them: a logit of 0 is never the largest of thousands.
        model.get_input_embeddings().weight[model.config.eos_token_id] = 0.0
    model.save_pretrained(folder)
    return folder


def replicas(device: str) -> Replicas:
    return Replicas(cpus=1, gpus=1) if device == "cuda" else Replicas(cpus=os.cpu_count() or 1)


def by_stage(job: Job, model: str, device: str, texts: list[str]) -> dict[str, Any]:
    """Seconds of engine start and of answering, and tokens, of the student stage."""
    rows = [{"instruction_id": str(n), "messages": [user(text)], "status": "ok"} for n, text in enumerate(texts)]
    asked = ray.data.from_arrow(records.conform(rows, records.INSTRUCTIONS))
    called = time.time()
    answered, ended = consumed(
        student_stage.generate(asked, model, job.student(model), replicas(device), STAGE_CPUS, random_seed=0)
    )
    assert set(answered["status"].to_pylist()) == {records.OK}, answered["reason"].to_pylist()
    began, tokens = told(answered)
    return {"start": began - called, "seconds": ended - began, "tokens": tokens}


def by_engine(job: Job, model: str, device: str, texts: list[str]) -> dict[str, Any]:
    """The same of `vllm.LLM.chat`; to be called in a process of its own, which ends with its engine."""
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    from vllm import LLM, SamplingParams

    if device == "cuda":
        wait_for_memory(0.9)
    called = time.time()
    llm = LLM(model=model, **student_stage.engine_arguments(model, job.student(model), replicas(device)))
    began = time.time()
    sampling = SamplingParams(temperature=0.0, max_tokens=job.new_tokens, seed=0)
    outputs = llm.chat([[user(text)] for text in texts], sampling, use_tqdm=False)
    return {
        "start": began - called,
        "seconds": time.time() - began,
        "tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
    }


def wait_for_memory(share: float) -> None:
    """Until so much of the GPU is free: an engine that starts while another's memory goes takes neither for its own."""
    deadline = time.time() + FREE_S
    while time.time() < deadline:
        free, total = torch.cuda.mem_get_info()
        if free >= share * total:
            return
        time.sleep(1)
    raise RuntimeError(f"less than {share:.0%} of the GPU's memory is free after {FREE_S} s: another process is on it")
