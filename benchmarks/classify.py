"""Compares the classification stage with `transformers.pipeline`: rows per second on the same rows and models.

    python benchmarks/classify.py [--quick] [--sizes 2M 14M]

Both label the instructions of alpaca_9k with DeBERTas made from their config. Our stage runs on Ray Data with one
worker per core. The pipeline runs in this process, with the batch size and the threads (one, or all cores) that are
fastest on a sample: threads of a busy machine wait for one another. They run in turn; rates are medians over the
rounds. The stage is timed from the first block in to the last block out, without the start of its workers.

If a label differs, the pipeline labels that row alone: float32 rounds differently in another batch, and these models
are sharpened, so that either of two almost equal labels can win. `labels_differing` counts such rows. The script ends
with an error if the pipeline's label of the row alone differs from ours. Writes benchmarks/results/classify.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its requests.py would hide the package `requests`

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from benchmarks.result import data_folder, show, start_ray, write
from tapir_ray.config import Config, CreateModel, Curriculum, parse
from tapir_ray.curriculum.tasks import load
from tapir_ray.data import schemas
from tapir_ray.train.create_classifier import create_classifier
from tapir_ray.transforms import classify as stage

SIZES = {
    "2M": CreateModel(hidden_size=160, intermediate_size=640, layers=4, heads=4, vocab_size=4096, max_length=256),
    "14M": CreateModel(hidden_size=384, intermediate_size=1536, layers=6, heads=6, vocab_size=8192, max_length=256),
}
BATCH_SIZES = (4, 8, 16, 32)
"""Batch sizes of the pipeline; single rows and larger batches were slower for both models."""
SAMPLE = 256
"""Rows of the sample that selects the pipeline's batch size and threads."""
SHARPER = 20.0
"""Factor on the matrices of a random model: without it every row would get the same label."""


def main() -> int:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="classify-", dir="/tmp"))
    texts = read_texts(options.rows)
    start_ray(folder)
    stage._Labeller = Timed  # type: ignore[misc]
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"quick": options.quick, "rows": len(texts)}
    try:
        for size in options.sizes:
            model = make(size, texts, folder)
            ratios[f"stage_against_pipeline_{size}"], figures[size] = compare(model, texts, options.rounds)
            print(size, json.dumps(figures[size]), flush=True)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    show(ratios, figures)
    if list(options.sizes) == list(SIZES):
        write("classify", ratios, figures, ("torch", "transformers", "ray", "pyarrow"))
    return 0


def read_texts(rows: int) -> list[str]:
    """Returns instruction and input of the first `rows` rows."""
    lines = (data_folder() / "seeds" / "alpaca_9k.jsonl").read_text().splitlines()[:rows]
    return [f"{row['instruction']}\n{row['input']}".strip() for row in map(json.loads, lines)]


def make(size: str, texts: list[str], folder: Path) -> str:
    """Writes a DeBERTa of this size with the shipped labels, and returns its folder."""
    path = str(folder / size)
    create_classifier(SIZES[size], texts, load(Curriculum()).labels, path, seed=0)
    network = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(SHARPER if parameter.ndim > 1 else 1.0)
    network.save_pretrained(path)
    return path


def compare(model: str, texts: list[str], rounds: int) -> tuple[float, dict[str, Any]]:
    """Returns (ratio of the median rates, figures).

    Raises AssertionError if a label differs from the pipeline's, both in a batch and for the row alone.
    """
    cores = os.cpu_count() or 1
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSequenceClassification.from_pretrained(model)
    theirs = pipeline("text-classification", model=network, tokenizer=tokenizer)
    sampled = {
        (size, threads): by_pipeline(theirs, texts[:SAMPLE], size, threads)[0]
        for threads in sorted({1, cores})
        for size in BATCH_SIZES
    }
    best = max(sampled, key=lambda choice: sampled[choice])
    rates: dict[str, list[float]] = {"stage": [], "pipeline": []}
    starts: list[float] = []
    for _ in range(rounds):
        rate, start, ours = by_stage(model, texts, cores)
        rates["stage"].append(rate)
        starts.append(start)
        rate, expected = by_pipeline(theirs, texts, *best)
        rates["pipeline"].append(rate)
    differing = [at for at, (mine, other) in enumerate(zip(ours, expected, strict=True)) if mine[0] != other[0]]
    alone = by_pipeline(theirs, [texts[at] for at in differing], 1, best[1])[1] if differing else []
    wrong = [at for at, (label, _) in zip(differing, alone, strict=True) if ours[at][0] != label]
    assert not wrong, f"{len(wrong)} of {len(texts)} labels differ, also from the pipeline asked for the row alone"
    median = {name: statistics.median(values) for name, values in rates.items()}
    return median["stage"] / median["pipeline"], {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "rows_per_second": {name: round(value, 1) for name, value in median.items()},
        "rounds": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "pipeline_batch_size": best[0],
        "pipeline_threads": best[1],
        "pipeline_rows_per_second_on_sample": {
            f"{size} rows, {threads} threads": round(rate, 1) for (size, threads), rate in sampled.items()
        },
        "stage_start_seconds": round(statistics.median(starts), 1),
        "labels_given": len({label for label, _ in expected}),
        "labels_differing": len(differing),
        "labels_differing_from_the_row_alone": len(wrong),
        "largest_probability_difference": max(
            abs(mine[1] - other[1]) for mine, other in zip(ours, expected, strict=True)
        ),
    }


Labels = list[tuple[str, float]]


def by_pipeline(theirs: Any, texts: list[str], batch_size: int, threads: int) -> tuple[float, Labels]:
    """Returns (rows per second, label and probability of each row) of `transformers.pipeline`."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    out = theirs(texts, batch_size=batch_size, truncation=True, max_length=256)
    return len(texts) / (time.perf_counter() - began), [(row["label"], row["score"]) for row in out]


class Timed(stage._Labeller):
    """Worker of the stage that records when it gets a block."""

    def __call__(self, table: pa.Table) -> pa.Table:
        began = time.time()
        table = super().__call__(table)
        return table.append_column("began", pa.array([began] * len(table), pa.float64()))


def by_stage(model: str, texts: list[str], cores: int) -> tuple[float, float, Labels]:
    """Returns (rows per second from first block in to last out, seconds before, label and probability of each row)."""
    rows = [
        {"instruction_id": str(number), "messages": [{"role": "user", "content": text}]}
        for number, text in enumerate(texts)
    ]
    table = schemas.conform(rows, schemas.INSTRUCTIONS)
    found: dict[str, dict[str, Any]] = {}
    called = time.time()
    blocks = [table.slice(start, stage.WINDOW) for start in range(0, len(table), stage.WINDOW)]
    labelled = stage.classify(ray.data.from_arrow(blocks), model, config(cores))
    for block in labelled.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        ended = time.time()
        found |= {row["instruction_id"]: row for row in block.to_pylist()}
    began = min(row["began"] for row in found.values())
    ordered = [found[str(number)] for number in range(len(texts))]
    return len(texts) / (ended - began), began - called, [(row["task"], row["task_prob"]) for row in ordered]


def config(cores: int) -> Config:
    return parse(
        {
            "name": "classify",
            "seed_data": {"path": "none"},
            "student": {"model": "none"},
            "classify": {"by": "deberta", "model": "none", "max_length": 256},
            "resources": {"classifier": {"replicas": cores, "cpus": 1}},
        }
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,500 rows, one round")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="fewer write no file")
    options = parser.parse_args()
    options.rows, options.rounds = (1_500, 1) if options.quick else (9_229, 3)
    return options


if __name__ == "__main__":
    sys.exit(main())
