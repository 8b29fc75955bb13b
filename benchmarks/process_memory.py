"""Measures the peak memory of a process and its children from outside, for benchmarks/scale.py."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from contextlib import suppress

import psutil

EVERY_S = 0.5
WORKER = "ray::"
"""Prefix of the names of Ray workers."""


def peaks(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Samples until the process ends. Returns the peaks of its own memory (`driver`), of a Ray worker, of any process
    and of all together, in MiB of PSS: shared memory counts in equal parts.
    """
    most: Counter[str] = Counter()
    while process.poll() is None:
        found = {"driver": 0.0, "worker": 0.0, "any": 0.0, "all": 0.0}
        for one, kind in _tree(process.pid):
            size = pss_mib(one.pid)
            found["all"] += size
            for name in {kind, "any"}:
                found[name] = max(found.get(name, 0.0), size)
        most.update({name: max(0.0, size - most[name]) for name, size in found.items()})
        time.sleep(EVERY_S)
    return {name: round(most[name], 1) for name in ("driver", "worker", "any", "all")}


def pss_mib(pid: int) -> float:
    """Returns the proportional set size of a process in MiB; 0 if it has ended."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024
    return 0.0


def _tree(pid: int) -> list[tuple[psutil.Process, str]]:
    found: list[tuple[psutil.Process, str]] = []
    with suppress(psutil.NoSuchProcess):
        driver = psutil.Process(pid)
        found.append((driver, "driver"))
        for child in driver.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found.append((child, "worker" if " ".join(child.cmdline()).startswith(WORKER) else "other"))
    return found
