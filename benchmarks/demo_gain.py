"""Measures the gain of the demo's student from the initial SFT to the last round, against plain SFT of equal length.

    python benchmarks/demo_gain.py [--seeds 0 1 2 3 4] [--work-dir runs/demo_gain] [--quick]

For each random seed the demo runs as a user runs it, with its control. Scores are the judge's, of every holdout row.
Intervals are paired bootstrap 95 % intervals of the mean difference over rows (`tapir_ray/evaluate/paired.py`). The
default seeds without --set write benchmarks/results/demo_gain.json, other calls demo_gain.json in the work directory. A
finished run in the work directory is reused.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its requests.py would hide the package `requests`

from tapir_ray.config import load
from tapir_ray.evaluate.control_gain import values
from tapir_ray.evaluate.holdout_scores import read_scores
from tapir_ray.evaluate.paired import Gain, in_words, paired_gain
from tapir_ray.methods.tapir import layout
from tapir_ray.run.run import Run

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "demo.yaml"
RESULT = ROOT / "benchmarks" / "results" / "demo_gain.json"
SEEDS = (0, 1, 2, 3, 4)


def main() -> int:
    options = arguments()
    figures = {}
    for seed in options.seeds:
        figures[str(seed)] = figures_of(f"{options.work_dir}/seed-{seed}", seed, options.set)
        print(seed, json.dumps(figures[str(seed)]), flush=True)
    target = target_of(options)
    write(figures, target)
    show(figures)
    if target != RESULT:
        print(f"written to {target}; {RESULT} is for all default seeds without --set and --quick")
    return 0


def figures_of(run_dir: str, seed: int, changes: list[str]) -> dict:
    """Runs (or continues) the demo with its control in `run_dir`, and compares them after the last round."""
    overrides = [f"random_seed={seed}", *changes]
    command = [sys.executable, "-m", "tapir_ray.cli", "run", str(CONFIG), "--run-dir", run_dir, "--set", *overrides]
    subprocess.run(command, check=True)
    run, tables = Run.at(run_dir), layout(load(CONFIG, overrides))
    summary, rounds = run.read_json("summary.json"), len(tables.rounds)
    first, last, plain = (
        values(read_scores(run, table))
        for table in (tables.judged_holdout(0), tables.judged_holdout(rounds), tables.control(rounds).evaluation)
    )
    of_control = [entry["control"] for entry in summary["rounds"]]
    return {
        "holdout_rows": len(first),
        "after_sft": mean(first),
        "after_rounds": mean(last),
        "control": mean(plain),
        "gain": interval(paired_gain(first, last, seed)),
        "control_gain": interval(paired_gain(first, plain, seed)),
        "rounds_against_control": interval(Gain(**of_control[-1]["gain"])),
        "extra_training_tokens": sum(entry["curriculum_tokens"] for entry in of_control),
        "control_training_tokens": sum(entry["tokens"] for entry in of_control),
        "by_task": {
            "after_sft": summary["initial_sft"]["student_score"]["by_task"],
            "after_rounds": summary["rounds"][-1]["student_score_after"]["by_task"],
        },
        "versions": summary["versions"],
    }


def mean(scores: dict[str, float]) -> float:
    return round(fmean(scores.values()), 4)


def interval(gain: Gain) -> dict[str, float]:
    """Returns the mean difference and the ends of its interval."""
    return {"mean": gain.mean, "low": gain.low, "high": gain.high}


def target_of(options: argparse.Namespace) -> Path:
    """Returns the path of the committed results for the default seeds, else a path in the work directory."""
    full = sorted(options.seeds) == list(SEEDS) and not options.set
    return RESULT if full else Path(options.work_dir) / RESULT.name


def write(figures: dict, target: Path) -> None:
    """Writes the figures of all seeds to `target` (JSON)."""
    entries = list(figures.values())
    paid = [entry["rounds_against_control"] for entry in entries]
    result = {
        "benchmark": "demo_gain",
        "ratios": {
            "seeds_above_sft": fmean(entry["gain"]["low"] > 0 for entry in entries),
            "seeds_above_control": fmean(gain["low"] > 0 for gain in paid),
            "score_after_rounds": fmean(entry["after_rounds"] for entry in entries),
            "score_over_control": fmean(gain["mean"] for gain in paid),
        },
        "figures": {seed: {k: v for k, v in entry.items() if k != "versions"} for seed, entry in figures.items()},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "versions": next(iter(figures.values()))["versions"],
        "date": datetime.now(UTC).date().isoformat(),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


def show(figures: dict) -> None:
    print(
        f"{'seed':>4}  {'SFT':>6}  {'rounds':>6}  {'control':>7}  {'gain [95 %]':>24}  {'against control [95 %]':>24}"
    )
    for seed, entry in figures.items():
        texts = [
            in_words(Gain(**gain, rows=0, left_out=0)) for gain in (entry["gain"], entry["rounds_against_control"])
        ]
        means = f"{entry['after_sft']:6.2f}  {entry['after_rounds']:6.2f}  {entry['control']:7.2f}"
        print(f"{seed:>4}  {means}  {texts[0]:>24}  {texts[1]:>24}")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--work-dir", default="runs/demo_gain")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="one seed and one small round, to see that it works")
    options = parser.parse_args(words)
    if options.quick:
        options.seeds = options.seeds[:1]
        options.set += ["curriculum.rounds=1", "train.initial_epochs=1", "train.epochs=1", "expand.size=100"]
    return options


if __name__ == "__main__":
    sys.exit(main())
