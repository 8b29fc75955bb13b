"""Compares the student stage with `vllm.LLM.chat` on one device, for `gpu.py infer`.

    figures = measure("1.1B", torch.device("cuda"), rounds=2)

Both get the same prompts and engine arguments, greedy, in turn, as in benchmarks/infer.py (`answering.py`). The model
is a Llama with random weights that never generates its end token; prompts are random words.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.answering import Asked, compared, create, time_answers
from benchmarks.result import start_ray
from tapir_ray.config import CreateModel, Replicas, Student


@dataclass(frozen=True)
class Job:
    """Model and prompts."""

    model: CreateModel
    rows: int
    new_tokens: int
    dtype: str
    engine: dict[str, Any]
    """Arguments whose defaults differ between the two ways to start an engine, or depend on the free memory."""

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
    """Returns the `ratio` of the median rates in tokens per second, all rates, and seconds of engine start."""
    job, root = JOBS[size], str(Path(__file__).absolute().parents[1])
    # Ray's workers and the engine's process import the measured code from this checkout.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    folder = Path(tempfile.mkdtemp(prefix="gpu-", dir="/tmp"))
    try:
        texts = prompts(job.rows)
        model = create(job.model, texts, str(folder / "model"), job.dtype)
        start_ray(folder)
        time_answers()
        ratio, figures = compared(Asked(model, job.student(model), replicas(device.type), texts), rounds)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    return {"ratio": ratio, "new_tokens": job.new_tokens, **figures}


def prompts(rows: int) -> list[str]:
    """Returns prompts of random words, about as long as Alpaca's instructions."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    return [" ".join(rng.choices(words, k=min(100, max(1, round(rng.lognormvariate(2.9, 0.5)))))) for _ in range(rows)]


def replicas(device: str) -> Replicas:
    return Replicas(cpus=1, gpus=1) if device == "cuda" else Replicas(cpus=os.cpu_count() or 1)
