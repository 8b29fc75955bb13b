"""Measures the gain of the demo's student from the initial SFT to the last round, against plain SFT of equal length.

    python benchmarks/demo_gain.py [--seeds 0 1 2] [--work-dir runs/demo_gain] [--quick]

For each random seed the demo runs as a user runs it. The control trains the same initial SFT student on the seed data,
for as many tokens as the rounds took, with the learning rate of the rounds. Scores are the judge's, of every holdout
row. Intervals are paired bootstrap 95 % intervals of the mean difference over rows. The default seeds without --set
write benchmarks/results/demo_gain.json, other calls demo_gain.json in the work directory. A finished run in the work
directory is reused.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.dataset as pads

from tapir_ray.config import Config, load
from tapir_ray.data.schemas import HOLDOUT, OK

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "demo.yaml"
RESULT = ROOT / "benchmarks" / "results" / "demo_gain.json"
SEEDS = (0, 1, 2)
RESAMPLES = 10_000


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
    """Runs (or continues) the demo and its control in `run_dir`, and compares them."""
    overrides = [f"random_seed={seed}", *changes]
    command = [sys.executable, "-m", "tapir_ray.cli", "run", str(CONFIG), "--run-dir", run_dir, "--set", *overrides]
    subprocess.run(command, check=True)
    summary = json.loads(Path(run_dir, "summary.json").read_text())
    control_tokens = control(load(CONFIG, overrides), run_dir, summary)
    first = scores(f"{run_dir}/rounds/01/scored")
    last = scores(f"{run_dir}/evaluation/holdout")
    plain = scores(f"{run_dir}/control/holdout")
    return {
        "holdout_rows": len(first),
        "after_sft": mean(first),
        "after_rounds": mean(last),
        "control": mean(plain),
        "gain": interval(first, last, seed),
        "control_gain": interval(first, plain, seed),
        "rounds_against_control": interval(plain, last, seed),
        "extra_training_tokens": sum(entry["training_tokens"] for entry in summary["rounds"]),
        "control_training_tokens": control_tokens,
        "by_task": {
            "after_sft": summary["initial_sft"]["student_score"]["by_task"],
            "after_rounds": summary["rounds"][-1]["student_score_after"]["by_task"],
        },
        "versions": summary["versions"],
    }


def target_of(options: argparse.Namespace) -> Path:
    """Returns the path of the committed results for the default seeds, else a path in the work directory."""
    full = sorted(options.seeds) == list(SEEDS) and not options.set
    return RESULT if full else Path(options.work_dir) / RESULT.name


def write(figures: dict, target: Path) -> None:
    """Writes the figures of all seeds to `target` (JSON)."""
    above = sum(entry["gain"]["low"] > 0 for entry in figures.values())
    result = {
        "benchmark": "demo_gain",
        "ratios": {"seeds_with_interval_above_0": above / len(figures)},
        "figures": {seed: {k: v for k, v in entry.items() if k != "versions"} for seed, entry in figures.items()},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "versions": next(iter(figures.values()))["versions"],
        "date": datetime.now(UTC).date().isoformat(),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


def control(config: Config, run_dir: str, summary: dict) -> int:
    """Trains `control/` from the initial SFT student on the seed data alone, scores it, and returns its tokens."""
    from tapir_ray.cli.run import started
    from tapir_ray.data.schemas import ID
    from tapir_ray.evaluate.holdout import HoldoutSuite
    from tapir_ray.run.layout import Table
    from tapir_ray.run.run import Run
    from tapir_ray.steps.evaluate import run_suite
    from tapir_ray.steps.train import student_after
    from tapir_ray.train.student import train_student
    from tapir_ray.transforms.pack import pack

    run = Run.at(run_dir)
    if run.done("control/holdout"):
        return int(run.manifest("control/holdout").extra["tokens"])
    wanted = sum(entry["training_tokens"] for entry in summary["rounds"])
    with started(config, run_dir) as context:
        run = context.run
        epoch_tokens = run.manifest(context.loop.sft_packed).extra["tokens"] / config.train.initial_epochs
        epochs = max(1, math.ceil(wanted / epoch_tokens))
        share = wanted / (epochs * epoch_tokens)
        start = student_after(context, 0)
        packed = run.path("control/packed")
        pack([run.files(context.loop.sft_training)], packed, run.fs, start, config.student, config.train, 1, epochs)
        # The last sequences are left out, so that the control sees no more tokens than the rounds did.
        keep(packed, share)
        rate = config.train.round_learning_rate or config.train.learning_rate
        out, storage = run.path("control/student"), run.path("ray_train")
        result = train_student(
            packed, run.fs, start, out, storage, f"control-{run.attempt}", config.student, config.train,
            config.resources, epochs, rate, config.random_seed,
        )  # fmt: skip
        suite = HoldoutSuite(run, config, context.loop, context.roles)
        run_suite(context, suite, out, Table("control/holdout", key=ID), extra={"tokens": result.tokens})
    return result.tokens


def keep(packed: str, share: float) -> None:
    """Keeps the first `share` of the sequences of a packed table."""
    import pyarrow.parquet as pq

    table = pads.dataset(packed, format="parquet").to_table().sort_by("seq_index")
    for file in Path(packed).glob("*.parquet"):
        file.unlink()
    pq.write_table(table.slice(0, max(1, round(share * len(table)))), f"{packed}/packed-000-000000.parquet")


def scores(table: str) -> dict[str, float]:
    """Returns the student's score of each holdout row, by id."""
    rows = pads.dataset(table, format="parquet").to_table(
        columns=["instruction_id", "student_score"],
        filter=(pads.field("split") == HOLDOUT) & (pads.field("status") == OK),
    )
    return dict(zip(rows["instruction_id"].to_pylist(), rows["student_score"].to_pylist(), strict=True))


def mean(values: dict[str, float]) -> float:
    return round(float(np.mean(list(values.values()))), 4)


def interval(before: dict[str, float], after: dict[str, float], seed: int) -> dict[str, float]:
    """Returns the mean of after − before over the rows of both, with its bootstrap 95 % interval."""
    ids = sorted(before.keys() & after.keys())
    differences = np.array([after[row_id] - before[row_id] for row_id in ids])
    drawn = np.random.default_rng(seed).integers(0, len(ids), (RESAMPLES, len(ids)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return {"mean": round(float(differences.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def show(figures: dict) -> None:
    print(
        f"{'seed':>4}  {'SFT':>6}  {'rounds':>6}  {'control':>7}  {'gain [95 %]':>24}  {'against control [95 %]':>24}"
    )
    for seed, entry in figures.items():
        gains = [entry["gain"], entry["rounds_against_control"]]
        texts = [f"{gain['mean']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]" for gain in gains]
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
