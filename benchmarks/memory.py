"""Measures the peak memory of a training worker by model size, sequence length, ZeRO stage and chunking of logits.

    python benchmarks/memory.py [--quick]

Each cell is a training of two steps by `train_student` with 2 workers, one sequence at a time, float32, every token in
the loss. The figure is the peak of private memory (`RssAnon`, sampled) of the larger worker in MiB, above the memory
before it loaded the model: `weights` until the model is read, `loading` up to the first step (with the optimizer),
`training` over all. Mapped files (the weights while they are read) do not count, as the machine may drop them and its
workers share them. Writes benchmarks/results/memory.json.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(sys.path.pop(0)))  # not this folder, whose names hide packages that Ray imports

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from benchmarks.result import local_ray, show, write
from tapir_ray.config import CreateModel, Replicas, Resources, Student, Train
from tapir_ray.data.schemas import PACKED, conform
from tapir_ray.train import loop
from tapir_ray.train.create_student import create_student
from tapir_ray.train.student import train_student

FS = pafs.LocalFileSystem()
WORKERS, STEPS = 2, 2
SIZES = {
    "15M": {"hidden_size": 256, "intermediate_size": 1024, "layers": 6},
    "60M": {"hidden_size": 640, "intermediate_size": 2560, "layers": 6},
    "155M": {"hidden_size": 1024, "intermediate_size": 4096, "layers": 9},
}
VOCABULARY = {"15M": 32_000, "60M": 32_000, "155M": 4_000}
"""Rows of the tied embeddings, more than the tokenizer uses. The largest model has few, so that no single weight is a
large part of it, as in real large models."""
PHASES = ("weights", "loading", "training")
LOGITS = "BENCHMARK_LOGITS"
"""Environment variable of the workers: `whole` computes the logits of a sequence at once."""


def main() -> int:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="memory-", dir="/tmp"))
    lengths, sizes = ((512,), ("15M",)) if options.quick else ((512, 2048), ("15M", "60M"))
    largest = sizes[-1] if options.quick else "155M"
    cells: dict[str, dict[str, float]] = {}
    try:
        whole = {size: create(folder / size, size) for size in dict.fromkeys((*sizes, largest))}
        for logits in ("chunked", "whole"):
            with local_ray(folder, runtime_env={"worker_process_setup_hook": watch, "env_vars": {LOGITS: logits}}):
                for size in sizes:
                    for length in lengths:
                        for stage in (0, 2, 3) if logits == "chunked" else (2,):
                            name = f"{size}, {length} tokens, ZeRO-{stage}, {logits} logits"
                            cells[name] = peaks(folder, size, length, stage)
                            print(name, cells[name], flush=True)
                for stage in (2, 3) if logits == "chunked" else ():
                    name = f"{largest}, 64 tokens, ZeRO-{stage}, {logits} logits"
                    cells[name] = peaks(folder, largest, 64, stage)
                    print(name, cells[name], flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    size, length = sizes[-1], lengths[-1]
    ratios = {
        "whole_against_chunked_logits": cells[f"{size}, {length} tokens, ZeRO-2, whole logits"]["training"]
        / cells[f"{size}, {length} tokens, ZeRO-2, chunked logits"]["training"],
        "weights_zero_3_against_a_full_copy": cells[f"{largest}, 64 tokens, ZeRO-3, chunked logits"]["weights"]
        / whole[largest],
        "loading_zero_3_against_zero_2": cells[f"{largest}, 64 tokens, ZeRO-3, chunked logits"]["loading"]
        / cells[f"{largest}, 64 tokens, ZeRO-2, chunked logits"]["loading"],
        "training_zero_3_against_zero_2": cells[f"{largest}, 64 tokens, ZeRO-3, chunked logits"]["training"]
        / cells[f"{largest}, 64 tokens, ZeRO-2, chunked logits"]["training"],
    }
    figures = {
        "quick": options.quick,
        "workers": WORKERS,
        "vocabulary": {size: VOCABULARY[size] for size in whole},
        "weights_mib": whole,
        "peak_mib": cells,
    }
    show(ratios, figures)
    write("memory", ratios, figures, ("torch", "transformers", "deepspeed", "ray"))
    return 0


def create(folder: Path, size: str) -> float:
    """Writes a student of that size with a vocabulary of `VOCABULARY`; returns the size of its weights in MiB."""
    from transformers import AutoModelForCausalLM

    sizes = CreateModel(**SIZES[size], heads=4, max_length=2048)
    create_student(sizes, ["one two three"], str(folder), None, seed=0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(VOCABULARY[size], mean_resizing=False)
    model.save_pretrained(folder)
    return model.num_parameters() * 4 / 2**20


def peaks(folder: Path, size: str, length: int, stage: int) -> dict[str, float]:
    """Returns the peaks of the larger worker in MiB, by phase (PHASES)."""
    packed = folder / f"packed-{size}-{length}"
    if not packed.exists():
        packed.mkdir()
        rng = np.random.default_rng(0)
        rows = []
        for number in range(STEPS * WORKERS):
            ids = rng.integers(5, VOCABULARY[size], length)
            rows.append({"seq_index": number, "pair_ids": [], "input_ids": ids, "labels": ids,
                         "position_ids": np.arange(length)})  # fmt: skip
        pq.write_table(conform(rows, PACKED), packed / "packed-000-000000.parquet")
    train = Train(
        sequence_length=length, global_batch_size=WORKERS, micro_batch_size=1, precision="float32", zero_stage=stage
    )
    messages: list[dict[str, Any]] = []
    name = f"{size}-{length}-{stage}"
    train_student(
        str(packed), FS, str(folder / size), str(folder / "out"), str(folder / "ray_train"), name,
        Student(model=str(folder / size)), train, Resources(train=Replicas(replicas=WORKERS)), 1, 1e-4, 0,
        on_progress=messages.append,
    )  # fmt: skip
    shutil.rmtree(folder / "ray_train")
    found = [message["peaks"] for message in messages if "peaks" in message]
    assert len(found) == WORKERS, messages
    return {part: max(peak[part] for peak in found) for part in PHASES}


def watch() -> None:
    """Makes a training in this Ray worker report the peaks of its private memory, in a message at its end."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    load, train = loop.make_engine, loop._train

    def loaded(work: Any, device: Any) -> Any:
        import deepspeed  # noqa: F401 (as `make_engine` does: what imports take is not the model's)
        from transformers import AutoModelForCausalLM

        from benchmarks.private_memory import Sampler

        loop._sampler = Sampler()  # type: ignore[attr-defined]
        read = AutoModelForCausalLM.from_pretrained

        def noted(*given: Any, **settings: Any) -> Any:
            model = read(*given, **settings)
            loop._weights = loop._sampler.peak_mib()  # type: ignore[attr-defined]
            return model

        AutoModelForCausalLM.from_pretrained = noted
        engine = load(work, device)
        loop._loading = loop._sampler.peak_mib()  # type: ignore[attr-defined]
        if os.environ[LOGITS] == "whole":
            from tapir_ray.train import loss

            setattr(engine.module.get_output_embeddings(), loss._CHANGE, None)
        return engine

    def trained(engine: Any, device: Any, work: Any, done: Any) -> Any:
        result = train(engine, device, work, done)
        peaks = loop._weights, loop._loading, loop._sampler.peak_mib()  # type: ignore[attr-defined]
        work.progress.put.remote({"peaks": dict(zip(PHASES, peaks, strict=True))})
        return result

    loop.make_engine, loop._train = loaded, trained


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="15M and 512 tokens alone; writes results/quick/memory.json"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
