"""Ends a run whose engines die again and again, because Ray restarts them without limit.

with stopped_if_dying(run.uri_of(PROCESSES), replicas=2, rows_done=lambda: progress.rows("rounds/01/scored")):
    ...                                                  # the pipeline that holds the engines
"""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tapir_ray.cluster.interrupt import watched
from tapir_ray.data.storage import Storage
from tapir_ray.errors import StageError, last_line

PROCESSES = "processes"
"""Folder of a run for records of engine processes: the student's, and in subfolders by role those of model servers."""
STARTS = 3
"""Starts of each engine without a finished row between them, before the run ends."""
CHECK_S = 2.0
LOG_LINES, LINE_CHARACTERS = 20, 400
CRASH, FRAME = "*** SIGABRT received", re.compile(r"\[0x[0-9a-f]+\]")
"""First line of Ray's report of a worker that it ends, and a line of a native stack. Both are left out: they are long
and hide the error."""
CAUSE, CAUSES = re.compile(r"ERROR .*\] (\w*(?:Error|Exception): .*)"), 3
"""A line of vLLM's log that names an exception, and the number of them in a message."""
ENGINE = "EngineStage"
"""Part of the names of workers with and without an engine of their own (`vLLMEngineStageUDF`, `KeptEngineStage`)."""


@contextmanager
def stopped_if_dying(processes: str, replicas: int, rows_done: Callable[[], int]) -> Iterator[None]:
    """Context manager that raises StageError in the main thread if engines cannot start, or die again and again.

    The message has the end of the engine's log. `processes` is the folder with the records of their processes (see
    `llm/engine/watchdog.py`).
    """
    storage = Storage.at(processes)
    before = _names(storage)
    seen, rows = set(before), rows_done()
    starts: list[dict[str, Any]] = []

    def look() -> StageError | None:
        nonlocal rows
        if rows_done() != rows:
            rows = rows_done()
            starts.clear()
        for name in sorted(_names(storage) - seen):
            entry = storage.find_json(name)
            seen.add(name)
            starts.extend([entry] if entry is not None and entry["worker"] else [])
        if len(starts) <= STARTS * replicas:
            return None
        # The log of the last start is left out: that engine may still be loading.
        return StageError(
            f"the student's engine was started {len(starts)} times and no row was finished; the end of its log:\n"
            f"{last_lines(starts[:-1])}"
        )

    try:
        with watched(look, CHECK_S, "engines"):
            yield
    except ray.exceptions.ActorDiedError as error:
        if ENGINE not in str(error):
            raise
        # A kept engine may have been started for a table before.
        names = _names(storage) - before or _names(storage)
        entries = [entry for name in names if (entry := storage.find_json(name)) and entry["worker"]]
        entries.sort(key=lambda entry: entry["started"])
        raise StageError(
            f"the student's engine could not be started: {last_line(error)}; the end of its log:\n{last_lines(entries)}"
        ) from error


def _names(storage: Storage) -> set[str]:
    return {name for name in storage.children("") if name.endswith(".json")}


def last_lines(entries: list[dict[str, Any]]) -> str:
    """Returns the end of the latest readable log of dead engines, as one text."""
    for entry in reversed(entries):
        if lines := _read(entry):
            return "\n".join(lines)
    return "(there is none)"


def _read(entry: dict[str, Any]) -> list[str]:
    if entry["host"] == socket.gethostname():
        return tail(entry["log"])
    place = NodeAffinitySchedulingStrategy(entry["node"], soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(tail).options(scheduling_strategy=place)
    try:
        lines: list[str] = ray.get(task.remote(entry["log"]), timeout=20)
    except (ray.exceptions.RayError, ValueError):
        return []  # the node was lost, and its log with it
    return lines


def tail(path: str) -> list[str]:
    """Returns the first exceptions in a worker's output and the last lines of its error log; empty if unreadable.

    vLLM logs the cause to the output (`.out`), and Python's traceback goes to the error log (`.err`).
    """
    errors, output = Path(path), Path(path).with_suffix(".out")
    if not errors.exists():
        # Ray moves the logs of ended workers to this folder.
        errors, output = (log.parent / "old" / log.name for log in (errors, output))
    said = itertools.takewhile(lambda line: CRASH not in line, _lines(errors))
    causes = [found[1] for line in _lines(output) if (found := CAUSE.search(line))]
    last = [line for line in said if line.strip() and not FRAME.search(line)][-LOG_LINES:]
    return [line[:LINE_CHARACTERS] for line in [*list(dict.fromkeys(causes))[:CAUSES], *last]]


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()
    except OSError:
        return []
