"""Measures the cost of large datasets: seconds per row and memory of driver and workers by step, and totals.

    python benchmarks/scale.py [regenerate|curriculum|duplicates|all] [--quick]

- regenerate: datasets of 100,000 and 1,000,000 rows, filtered, decontaminated, rebalanced and answered by an engine
  that echoes without latency. A small dataset before them starts the workers (`start_seconds`). Bars: the driver stays
  under 1.5 GB, the time per row of both sizes is equal to within 15 %, and no step takes more time per row in the
  larger one (STEP_RATIO allows for the clock).
- curriculum: stats, plan, sample and mix of a round of 10,000,000 scored rows. Bars: 10 minutes, 4 GB in any process.
- duplicates: near-duplicates of 1,000,000 instructions. Bars: 10 minutes, 2 GB in any process.

Each measurement is a new process with its own Ray; data is generated before the clock starts. A regeneration is
measured several times, the sizes in turn: seconds are medians (of two: their mean), and `rounds` has each. Memory is
the highest of all PSS samples. A part updates its own figures in benchmarks/results/scale.json. A missed bar ends the
script with status 1. `--quick` measures a tenth to a hundredth of it, once and without bars, in under 5 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its requests.py would hide the package `requests`

from benchmarks.process_memory import peaks
from benchmarks.result import show, today, write, written

ROOT = Path(__file__).parents[1]
Figures = dict[str, Any]
ROWS = {"regenerate": (100_000, 1_000_000), "curriculum": (10_000_000,), "duplicates": (1_000_000,)}
TIMES = {("regenerate", 100_000): 3, ("regenerate", 1_000_000): 2}
"""Measurements of a part at a size, if more than one."""
QUICK = {"regenerate": (2_000, 10_000), "curriculum": (200_000,), "duplicates": (20_000,)}
DRIVER_MIB, CURRICULUM_MIB, DUPLICATES_MIB = 1.5 * 1000**3 / 2**20, 4 * 1000**3 / 2**20, 2 * 1000**3 / 2**20
SECONDS, ROW_RATIO, STEP_RATIO = 600, 0.15, 1.15
SHORT_S = 5.0
"""Seconds; steps that take less in the larger dataset have no bar."""
CORES, NODE_CORES = 2, 16
"""Cores of this machine, and of a node in the extrapolation."""
LARGE = [(10**8, 16), (10**8, 64), (10**9, 16), (10**9, 64)]
"""Rows and nodes of the extrapolation."""


def main() -> int:
    options = arguments()
    missed: list[str] = []
    for part in ROWS if options.part == "all" else [options.part]:
        measured = in_turn(part, (QUICK if options.quick else ROWS)[part])
        ratios = RATIOS[part](measured)
        figures = {str(rows): found for rows, found in measured.items()} | {"hours": hours(measured), "date": today()}
        show(ratios, figures)
        merge(part, ratios, figures, options.quick)
        if not options.quick:
            missed += [f"{part}: {name} {value:.3f}" for name, value in ratios.items() if value > 1 and "bar" in name]
    for line in missed:
        print(f"above its bar: {line}")
    return 1 if missed else 0


def in_turn(part: str, sizes: tuple[int, ...]) -> dict[int, Figures]:
    """Returns the figures by size, of TIMES measurements."""
    found: dict[int, list[Figures]] = {rows: [] for rows in sizes}
    for turn in zip_longest(*([rows] * TIMES.get((part, rows), 1) for rows in sizes)):
        for rows in filter(None, turn):
            found[rows].append(measure(part, rows))
            print(part, rows, json.dumps(found[rows][-1]), flush=True)
    return {rows: of_rounds(rows, rounds) for rows, rounds in found.items()}


def of_rounds(rows: int, rounds: list[Figures]) -> Figures:
    """Combines measurements: medians of seconds, highest peaks, and the seconds of each."""

    def median(name: str) -> float:
        return round(statistics.median(each[name] for each in rounds), 2)

    seconds = median("seconds")
    timed = {name: median(name) for name in rounds[0] if name.endswith("_seconds")}
    steps = {name: round(statistics.median(each["steps"][name] for each in rounds), 2) for name in rounds[0]["steps"]}
    peak = {name: max(each["peak_mib"][name] for each in rounds) for name in rounds[0]["peak_mib"]}
    return {
        "seconds": seconds,
        "rounds": [each["seconds"] for each in rounds],
        **timed,
        "steps": steps,
        "made": rounds[0]["made"],
        "rows_per_second": round(rows / seconds, 1),
        "peak_mib": peak,
    }


def measure(part: str, rows: int) -> Figures:
    """Returns seconds, seconds by step, counts, and peaks in MiB of one measurement."""
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir="/tmp"))
    try:
        command = [sys.executable, "-m", "benchmarks.scale_work", part, str(rows), str(folder)]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
        memory = peaks(process)
        if process.returncode:
            raise SystemExit(f"{part} of {rows} rows ended with status {process.returncode}")
        figures: Figures = json.loads((folder / "figures.json").read_text())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {**figures, "peak_mib": memory}


def of_regenerate(measured: dict[int, Figures]) -> dict[str, float]:
    """Returns ratios of the larger dataset to the smaller in seconds per row, and bars; above 1 a bar is missed."""
    (few, small), (many, large) = sorted(measured.items())
    more = many / few
    row = large["seconds"] / small["seconds"] / more
    steps = {name: seconds / max(small["steps"][name], 1e-9) / more for name, seconds in large["steps"].items()}
    long = [ratio for name, ratio in steps.items() if large["steps"][name] >= SHORT_S]
    return {
        **{f"regenerate: a row of {name}, larger against smaller": ratio for name, ratio in steps.items()},
        "regenerate: a row, larger against smaller": row,
        "regenerate: a row, of its bar": abs(row - 1) / ROW_RATIO,
        "regenerate: the step that grows most, of its bar": max(long, default=0.0) / STEP_RATIO,
        "regenerate: driver, of its bar": large["peak_mib"]["driver"] / DRIVER_MIB,
        "regenerate: driver, larger against smaller": large["peak_mib"]["driver"] / small["peak_mib"]["driver"],
    }


def of_curriculum(measured: dict[int, Figures]) -> dict[str, float]:
    """Seconds and memory against their bars."""
    return _against("curriculum", measured, CURRICULUM_MIB)


def of_duplicates(measured: dict[int, Figures]) -> dict[str, float]:
    """Seconds and memory against their bars."""
    return _against("duplicates", measured, DUPLICATES_MIB)


RATIOS = {"regenerate": of_regenerate, "curriculum": of_curriculum, "duplicates": of_duplicates}


def _against(part: str, measured: dict[int, Figures], mib: float) -> dict[str, float]:
    (found,) = measured.values()
    return {
        f"{part}: seconds, of its bar": found["seconds"] / SECONDS,
        f"{part}: memory of any process, of its bar": found["peak_mib"]["any"] / mib,
    }


def hours(measured: dict[int, Figures]) -> dict[str, float]:
    """Extrapolates hours of the datasets in LARGE on nodes of NODE_CORES, as if all work were linear and parallel."""
    rows, found = max(measured.items())
    core_seconds = found["seconds"] * CORES / rows
    return {
        f"{large:,} rows on {nodes} nodes": round(core_seconds * large / (nodes * NODE_CORES) / 3600, 2)
        for large, nodes in LARGE
    }


def merge(part: str, ratios: dict[str, float], figures: Figures, quick: bool) -> None:
    """Writes a part's ratios and figures into scale.json, in place of its old ones."""
    before = written("scale", quick)
    others = {name: value for name, value in before["ratios"].items() if not name.startswith(f"{part}:")}
    write("scale", others | ratios, {**before["figures"], part: figures, "quick": quick}, ("ray", "pyarrow", "rensa"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*ROWS, "all"], default="all")
    parser.add_argument("--quick", action="store_true", help="small data, no bars; writes results/quick/scale.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
