"""Measures how well a task classifier labels real instructions: held-out rows, other sources, MT-Bench.

    python benchmarks/classifier.py [--quick]

The label of a row follows from its source: gsm8k is Math, codealpaca Code Generation, roleplay Roleplay; some
categories of dolly have a label, and so have the simulator's tasks. A small DeBERTa made from its config is trained on
all of them by Ray Train, with the class weights of `classify.class_weight_power`, and scored on

  holdout           rows of the same sources that were held out;
  mt_bench          first turns of the MT-Bench questions whose category has a label (50 of them, and 10 `extraction`);
  without_SOURCE    rows of a source that was left out of training, for the labels that another source gives (2M).

The style of a source is easier to learn than its task, as the difference between the first test and the others shows.
Accuracy and macro-F1 (over labels that were true or predicted) are shown with those of a baseline that always gives the
commonest training label. Writes benchmarks/results/classifier.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its requests.py would hide the package `requests`

import argparse
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow.parquet as pq
import ray

from benchmarks.result import data_folder, show, start_ray, write
from tapir_ray.config import Config, CreateModel, Curriculum, parse
from tapir_ray.curriculum.tasks import load
from tapir_ray.data import schemas
from tapir_ray.simulator.seed import seed_rows
from tapir_ray.train.classifier import measure, train_classifier
from tapir_ray.train.create_classifier import create_classifier
from tapir_ray.transforms.classify import score_classifier

SIZES = {
    "2M": CreateModel(hidden_size=160, intermediate_size=640, layers=4, heads=4, vocab_size=4096, max_length=128),
    "14M": CreateModel(hidden_size=384, intermediate_size=1536, layers=6, heads=6, vocab_size=8192, max_length=128),
}
WHOLE = {"gsm8k": ("gsm8k_2k", "Math"), "codealpaca": ("codealpaca_2k", "Code Generation"),
         "roleplay": ("roleplay_1k", "Roleplay")}  # fmt: skip
DOLLY = {
    "creative_writing": "Writing",
    "brainstorming": "Writing",
    "classification": "Reasoning",
    "summarization": "Others",
    "information_extraction": "Others",
    "closed_qa": "Others",
}
"""Labels of dolly's categories, our choice; `open_qa` and `general_qa` mix all subjects and have no label."""
MT_BENCH = {
    "writing": "Writing",
    "roleplay": "Roleplay",
    "reasoning": "Reasoning",
    "math": "Math",
    "coding": "Code Generation",
    "extraction": "Others",
}
"""`stem` and `humanities` mix several subjects and have no label."""
LEARNING_RATES = {"2M": 1e-3, "14M": 5e-4}
SIMULATOR_ROWS = 2000
SETTINGS = {"batch_size": 64, "max_length": 128, "train_batch_size": 16, "holdout_share": 0.15}

Rows = list[dict[str, Any]]


def main() -> int:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="classifier-", dir="/tmp"))
    sources = {name: rows[: options.rows] for name, rows in labelled_sources().items()}
    start_ray(folder)
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {
        "quick": options.quick,
        "rows": {name: dict(Counter(row["task"] for row in rows)) for name, rows in sources.items()},
        "class_weight_power": config(options).classify.class_weight_power,
    }
    try:
        for size in options.sizes:
            figures[size] = judged(size, sources, options, folder)
            for name, outcome in figures[size]["judged"].items():
                ratios[f"accuracy_{size}_{name}"] = outcome["accuracy"]
                ratios[f"macro_f1_{size}_{name}"] = outcome["macro_f1"]
                ratios[f"majority_{size}_{name}"] = outcome["majority"]["accuracy"]
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    show(ratios, figures)
    write("classifier", ratios, figures, ("torch", "transformers", "ray"))
    return 0


def labelled_sources() -> dict[str, Rows]:
    """Returns rows (INSTRUCTIONS) by source, each instruction once, with the source's label as their task."""
    seeds = data_folder() / "seeds"
    found = {name: of_file(seeds / f"{file}.jsonl", whole=label) for name, (file, label) in WHOLE.items()}
    found["dolly"] = of_file(seeds / "dolly_3k.jsonl")
    found["simulator"] = unique((row["instruction"], row["task"]) for row in seed_rows(SIMULATOR_ROWS, 0))
    return found


def of_file(file: Path, whole: str | None = None) -> Rows:
    """Returns the rows of an Alpaca file with a label: that of the `whole` file, or of their category."""
    rows = map(json.loads, file.read_text().splitlines())
    return unique(
        (f"{row['instruction']}\n{row['input']}".strip(), whole or DOLLY.get(row["category"])) for row in rows
    )


def mt_bench() -> Rows:
    """Returns the first turns of the questions whose category has a label."""
    questions = map(json.loads, (data_folder() / "eval" / "mt_bench_questions.jsonl").read_text().splitlines())
    return unique((row["turns"][0], MT_BENCH.get(row["category"])) for row in questions)


def unique(pairs: Iterable[tuple[str, str | None]]) -> Rows:
    """Returns rows of (text, label) in an order by hash, without repeats and unlabelled ones."""
    rows = {}
    for text, label in pairs:
        messages = [{"role": "user", "content": text}]
        row_id = schemas.instruction_id(messages)
        if label is not None:
            rows[row_id] = {"instruction_id": row_id, "messages": messages, "task": label, "status": schemas.OK}
    return [rows[row_id] for row_id in sorted(rows)]


def judged(size: str, sources: dict[str, Rows], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Returns the figures of a model of this size: of its training, and of each test."""
    report = train(size, sources, "all", options, folder)
    counts = Counter(row["task"] for rows in sources.values() for row in rows)
    common = counts.most_common(1)[0][0]
    truth = Counter({label: sum(row.values()) for label, row in report["confusion"].items()})
    tests = {"holdout": outcome(report, truth, common)}
    tests["mt_bench"] = scored(report["folder"], mt_bench(), common, folder / "mt_bench", options)
    for name in left_out(sources)[: options.left_out] if size == "2M" else ():
        others = {other: rows for other, rows in sources.items() if other != name}
        known = {row["task"] for rows in others.values() for row in rows}
        without = train(size, others, name, options, folder)
        common = Counter(row["task"] for rows in others.values() for row in rows).most_common(1)[0][0]
        rows = [row for row in sources[name] if row["task"] in known]
        tests[f"without_{name}"] = scored(without["folder"], rows, common, folder / f"{size}-{name}-rows", options)
        print(size, name, json.dumps(tests[f"without_{name}"]), flush=True)
    return {
        "train_rows": report["train_rows"],
        "training_seconds": round(report["seconds"], 1),
        "start_seconds": round(report["start_seconds"], 1),
        "judged": tests,
    }


def left_out(sources: dict[str, Rows]) -> list[str]:
    """Returns the sources with a label that another source gives too."""
    labels = {name: {row["task"] for row in rows} for name, rows in sources.items()}
    return [
        name
        for name, own in labels.items()
        if own & set().union(*(given for other, given in labels.items() if other != name))
    ]


def train(size: str, sources: dict[str, Rows], name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trains a classifier on these sources, one file each, and returns its report."""
    place = folder / f"{size}-{name}"
    files = [save(rows, place / f"{source}.parquet") for source, rows in sources.items()]
    texts = [schemas.text_of(row["messages"]) for rows in sources.values() for row in rows]
    labels = list(load(Curriculum()).labels)
    create_classifier(SIZES[size], texts, labels, str(place / "base"), seed=0)
    settings = config(options, LEARNING_RATES[size])
    report = train_classifier(
        files, str(place / "base"), labels, settings.classify, settings.resources,
        out_dir=str(place / "model"), storage_dir=str(place / "storage"), name=f"{size}-{name}",
    )  # fmt: skip
    return report.to_dict()


def scored(model: str, rows: Rows, common: str, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the scores of a model on rows that it has not seen."""
    report = score_classifier([save(rows, place / "rows.parquet")], model, config(options))
    return outcome(report.to_dict(), Counter(row["task"] for row in rows), common)


def outcome(report: dict[str, Any], truth: Counter[str], common: str) -> dict[str, Any]:
    """Returns the figures of a test, and of a baseline that gives every row the label `common`."""
    majority = measure({(label, common): rows for label, rows in truth.items()})
    return {
        "rows": report["holdout_rows"],
        "accuracy": round(report["accuracy"], 4),
        "macro_f1": round(report["macro_f1"], 4),
        "majority": {
            "label": common,
            "accuracy": round(majority["accuracy"], 4),
            "macro_f1": round(majority["macro_f1"], 4),
        },
        "confusion": report["confusion"],
    }


def save(rows: Rows, file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(schemas.conform(rows, schemas.INSTRUCTIONS), file)
    return str(file)


def config(options: argparse.Namespace, learning_rate: float = 1e-3) -> Config:
    return parse(
        {
            "name": "classifier",
            "seed_data": {"path": "none"},
            "student": {"model": "none"},
            "classify": {
                "by": "deberta",
                "model": "none",
                "epochs": options.epochs,
                "learning_rate": learning_rate,
                **SETTINGS,
            },
            "resources": {"classifier": {"replicas": 2, "cpus": 1}},
        }
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 rows a source, 2M alone, two sources left out")
    options = parser.parse_args()
    options.rows, options.epochs, options.left_out = (300, 4, 2) if options.quick else (700, 4, None)
    options.sizes = ["2M"] if options.quick else ["2M", "14M"]
    return options


if __name__ == "__main__":
    sys.exit(main())
