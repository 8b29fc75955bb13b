"""Measures if the curriculum teaches a real model on real rows: SmolLM2-135M-Instruct, four arms, two random seeds.

    python -m benchmarks.smollm2                         # the student's folder, once
    python benchmarks/learning_real.py run [--seeds 0 1] [--arms A0 A1 A2 A7] [--tokens 46080]
    python benchmarks/learning_real.py report            # benchmarks/results/learning_real.json, docs/learning_real.md

A training is one line of RESULTS; a training with a line is not done again, so a killed run loses at most one. Each
training is a process of its own with one thread. Rows come from TAPIR_DATA. Settings are the product's defaults as far
as there are any, and were not tuned; the seeds from 100 on, which are not reported, are free for that.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(sys.path.pop(0)))  # not this folder, whose names hide packages that torch imports

import argparse
import fcntl
import hashlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

WORK = Path(os.environ.get("TAPIR_LEARNING", "runs/learning")) / "real"
RESULTS = Path(__file__).parent / "results" / "learning_real.jsonl"
SETTING = ("tokens", "learning_rate", "seed_rows", "held_each")
Job = tuple[str, int, dict[str, Any], str, Path]
"""Arm, random seed, setting, folder of the student, file of results."""


def main() -> int:
    options = arguments()
    setting = {name: getattr(options, name) for name in SETTING}
    if options.what == "report":
        from benchmarks.learning_real_report import report

        report([line for line in lines(options.results) if setting.items() <= line.items()], setting)
        return 0
    if not (options.model / "config.json").exists():
        raise SystemExit(f"no model in {options.model}: run python -m benchmarks.smollm2")
    done = {key_of(line) for line in lines(options.results)}
    asked = [
        (arm, seed, setting, str(options.model), options.results) for seed in options.seeds for arm in options.arms
    ]
    jobs = [job for job in asked if key_of({"arm": job[0], "seed": job[1], **setting}) not in done]
    print(f"{len(jobs)} trainings to do", flush=True)
    # A process per training, so that each begins with the memory and the thread count of the first.
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
        for said in pool.imap_unordered(train_one, jobs):
            print(said, flush=True)
    return 0


def key_of(line: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what tells a training from others: arm, random seed and setting."""
    return tuple(line[name] for name in ("arm", "seed", *SETTING))


def lines(results: Path) -> list[dict[str, Any]]:
    """Returns the finished trainings."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def work_file(data: Path, model: str) -> Path:
    """Returns the path of the rows of a data folder, counted in tokens of a model."""
    name = hashlib.blake2b(repr((str(data.resolve()), model)).encode(), digest_size=4).hexdigest()
    return WORK / f"rows-{name}.parquet"


def train_one(job: Job) -> str:
    """Does one training, appends its line to RESULTS, and returns a summary."""
    import torch

    from benchmarks.learning_real_data import UNIFORM, counted_rows, kept, reasons, split
    from benchmarks.learning_real_loss import mean_of
    from benchmarks.learning_real_trial import ARMS, Setting, Trial, config_of
    from benchmarks.result import data_folder

    torch.set_num_threads(1)
    arm, seed, sizes, model, results = job
    setting = Setting(**sizes)
    config = config_of(model, setting, seed)
    data = data_folder() / "seeds"
    rows = kept(work_file(data, model), lambda: counted_rows(data, config, model))
    found, left_out = split(rows, config, setting.held_each, setting.seed_rows)
    # The untrained student's losses are the same in every arm.
    known = [one["before"] for one in lines(results) if one["seed"] == seed and sizes.items() <= one.items()]
    line = Trial(ARMS[arm], seed, setting, model, found).run(known[0] if known else None)
    line |= {"left_out": {**reasons(rows), **left_out}, "pool": len(found.pool)}
    append(line, results)
    losses = " → ".join(f"{mean_of(line[when], UNIFORM):.4f}" for when in ("before", "after"))
    return f"{arm} seed {seed}: {losses} nats a response token ({line['seconds']:.0f} s)"


def append(line: dict[str, Any], results: Path) -> None:
    """Adds a line to the results."""
    with open(results, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(line) + "\n")


def arguments() -> argparse.Namespace:
    from benchmarks.learning_real_trial import ARMS, Setting
    from benchmarks.smollm2 import default_folder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--tokens", type=int, default=Setting.tokens, help="of the three rounds together")
    parser.add_argument("--learning-rate", type=float, default=Setting.learning_rate)
    parser.add_argument("--seed-rows", type=int, default=Setting.seed_rows)
    parser.add_argument("--held-each", type=int, default=Setting.held_each, help="holdout rows of each task")
    parser.add_argument("--model", type=Path, default=default_folder(), help="folder of the student")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
