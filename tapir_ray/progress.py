"""Live progress of a run: an actor counts the rows that stages write, the driver prints one line a stage.

progress = Progress.start(run_id, usage=roles.usage)
with progress.stage("round 1 score", expected=1000): ...
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.actor import ActorHandle

from tapir_ray.records import FAILED

NAMESPACE = "tapir"
TERMINAL_EVERY_S, LOG_EVERY_S = 0.5, 10.0


class _Counter:
    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.failed: dict[str, int] = {}

    def add(self, table: str, rows: int, failed: int) -> None:
        self.rows[table] = self.rows.get(table, 0) + rows
        self.failed[table] = self.failed.get(table, 0) + failed

    def count(self, table: str) -> tuple[int, int]:
        return self.rows.get(table, 0), self.failed.get(table, 0)


class Progress:
    """Prints a line for each stage: in place on a terminal, every ten seconds and at the end in a log."""

    def __init__(self, counter: ActorHandle, usage: Callable[[], dict[str, Any]]) -> None:
        self.counter = counter
        self.usage = usage
        self.started = time.monotonic()
        self._print = threading.Lock()

    @classmethod
    def start(cls, usage: Callable[[], dict[str, Any]]) -> Progress:
        counter: Any = ray.remote(num_cpus=0)(_Counter)
        return cls(counter.remote(), usage)

    @contextmanager
    def stage(self, label: str, table: str = "", expected: int | None = None) -> Iterator[dict[str, Any]]:
        """Show a stage while it runs; what the caller puts into the yielded dict is shown at the end of the line."""
        done = threading.Event()
        facts: dict[str, Any] = {}
        tokens_before = self._tokens()
        started = time.monotonic()

        def line(final: bool) -> str:
            seconds = time.monotonic() - started
            parts = [f"[{time.monotonic() - self.started:6.0f} s] {label:<24}"]
            if table:
                rows, failed = cast(tuple[int, int], ray.get(self.counter.count.remote(table)))
                total = f"/{expected}" if expected is not None else ""
                parts.append(f"{rows}{total} rows  {rows / max(seconds, 1e-6):.1f} rows/s  failed {failed}")
                tokens = self._tokens() - tokens_before
                if tokens:
                    parts.append(f"{tokens:,} tokens")
            parts += [f"{key} {value}" for key, value in facts.items()]
            parts.append(f"{'done in ' if final else ''}{seconds:.0f} s")
            return "  ".join(parts)

        def watch() -> None:
            terminal = sys.stderr.isatty()
            while not done.wait(TERMINAL_EVERY_S if terminal else LOG_EVERY_S):
                with self._print:
                    print(("\r\033[K" if terminal else "") + line(False), end="" if terminal else "\n", file=sys.stderr)
                    sys.stderr.flush()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield facts
        finally:
            done.set()
            watcher.join()
        with self._print:
            print(("\r\033[K" if sys.stderr.isatty() else "") + line(True), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        with self._print:
            print(("\r\033[K" if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)

    def _tokens(self) -> int:
        return sum(role.get("input_tokens", 0) + role.get("output_tokens", 0) for role in self.usage().values())


def counted(batch: pa.Table, counter: ActorHandle, table: str) -> pa.Table:
    """The batch as it is; its rows and failed rows are reported to the counter."""
    failed = pc.sum(pc.equal(batch["status"], FAILED)).as_py() if "status" in batch.column_names else 0
    counter.add.remote(table, len(batch), failed or 0)
    return batch
