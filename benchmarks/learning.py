"""Measures if the curriculum teaches: arms that differ by one change, several regimes, many random seeds.

    python benchmarks/learning.py run [--regimes c b f] [--seeds 0 1 2 3 4] [--arms A0 A1 …] [--jobs 2]
    python benchmarks/learning.py report         # writes benchmarks/results/learning.json and docs/learning.md

A training is one line of RESULTS, or of the file TAPIR_LEARNING_RESULTS; a training with a line is not done again. All
arms of a regime and a seed start from the same student, and train for the same tokens and optimizer steps, with as many
schedules of the same shape. Settings were chosen on the seeds from 100 on, which are not reported.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(sys.path.pop(0)))  # not this folder, whose names hide packages that torch imports

import argparse
import fcntl
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

from benchmarks.learning_arms import ARMS, REGIMES
from tapir_ray.errors import StageError

WORK = Path(os.environ.get("TAPIR_LEARNING", "runs/learning"))
RESULTS = Path(os.environ.get("TAPIR_LEARNING_RESULTS", Path(__file__).parent / "results" / "learning.jsonl"))


def main() -> int:
    options = arguments()
    if options.what == "report":
        from benchmarks.learning_report import report

        report(lines())
        return 0
    WORK.mkdir(parents=True, exist_ok=True)
    done = {(line["regime"], line["arm"], line["seed"]) for line in lines()}
    jobs = [
        (regime, arm, seed)
        for regime in options.regimes
        for seed in options.seeds
        for arm in options.arms or REGIMES[regime].arms()
        if (regime, arm, seed) not in done
    ]
    starts = sorted(
        {(regime, seed) for regime, _, seed in jobs if not (start_dir(regime, seed) / "done.json").exists()}
    )
    print(f"{len(starts)} starting students and {len(jobs)} trainings to do", flush=True)
    # A process per training: torch keeps memory of graphs of many sizes.
    with multiprocessing.get_context("spawn").Pool(options.jobs, initializer=_alone, maxtasksperchild=4) as pool:
        for line in pool.imap_unordered(_start, starts):
            print(line, flush=True)
        for line in pool.imap_unordered(_one, jobs):
            print(line, flush=True)
    return 0


def lines() -> list[dict[str, Any]]:
    """Returns the finished trainings."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def start_dir(regime: str, seed: int) -> Path:
    return WORK / "starts" / f"{regime}-{seed}"


def _alone() -> None:
    import torch

    torch.set_num_threads(1)


def _start(job: tuple[str, int]) -> str:
    from benchmarks.learning_trial import make_start

    regime, seed = job
    began = time.monotonic()
    found = make_start(REGIMES[regime], seed, start_dir(regime, seed))
    return f"start {regime} seed {seed}: {found['score']:.2f} ({time.monotonic() - began:.0f} s)"


def _one(job: tuple[str, str, int]) -> str:
    from benchmarks.learning_trial import trial

    regime, arm, seed = job
    began = time.monotonic()
    try:
        line = trial(REGIMES[regime], ARMS[arm], seed, start_dir(regime, seed))
    except StageError as error:  # the plan's own refusal, as in a run: a result of the arm
        line = {"regime": regime, "arm": arm, "seed": seed, "stopped": str(error)}
    line["seconds"] = round(time.monotonic() - began, 1)
    with open(RESULTS, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(line) + "\n")
    scored = "score" in line and f"{line['score']:.2f} uniform, {line['seed_score']:.2f} in the seed's shares"
    return f"{regime} {arm} seed {seed}: {scored or line['stopped']} ({line['seconds']} s)"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--regimes", nargs="+", choices=list(REGIMES), default=["c", "b", "f"])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="default: all that make sense in a regime")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
