"""Live progress of a run: one line a stage.

progress = Progress(roles.usage)
with progress.stage("round 1 score", "rounds/01/scored", expected=1000):
    progress.count("rounds/01/scored", rows=64, failed=1)
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TERMINAL_EVERY_S, LOG_EVERY_S = 0.5, 10.0


class Progress:
    """Prints a line for each stage: in place on a terminal, every ten seconds and at the end in a log."""

    def __init__(self, usage: Callable[[], dict[str, Any]]) -> None:
        self.usage = usage
        self.started = time.monotonic()
        self._print = threading.Lock()
        self._counts: dict[str, tuple[int, int]] = {}

    def count(self, table: str, rows: int, failed: int) -> None:
        """Add what was written to a table."""
        rows_before, failed_before = self._counts.get(table, (0, 0))
        self._counts[table] = (rows_before + rows, failed_before + failed)

    def rows(self, table: str) -> int:
        """Rows of a table that were written so far."""
        return self._counts.get(table, (0, 0))[0]

    @contextmanager
    def stage(self, label: str, table: str = "", expected: int | None = None) -> Iterator[dict[str, Any]]:
        """Show a stage while it runs; what the caller puts into the yielded dict is shown at the end of the line."""
        done = threading.Event()
        facts: dict[str, Any] = {}
        before = self.usage()
        started = time.monotonic()

        def line(final: bool) -> str:
            seconds = time.monotonic() - started
            parts = [f"[{time.monotonic() - self.started:6.0f} s] {label:<24}"]
            if table:
                rows, failed = self._counts.get(table, (0, 0))
                total = f"/{expected}" if expected is not None else ""
                parts.append(f"{rows}{total} rows  {rows / max(seconds, 1e-6):.1f} rows/s  failed {failed}")
                parts += spending(self.usage(), before)
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


def spending(usage: dict[str, dict[str, float]], before: dict[str, dict[str, float]]) -> list[str]:
    """Tokens since `before`, and where anything has a price the dollars of the run so far, by role."""
    tokens = sum(_tokens(role) for role in usage.values()) - sum(_tokens(role) for role in before.values())
    parts = [f"{tokens:,.0f} tokens"] if tokens else []
    costs = {name: role.get("cost", 0.0) for name, role in usage.items()}
    if any(costs.values()):
        parts.append("  ".join(f"{name} ${cost:,.4g}" for name, cost in costs.items()))
    return parts


def _tokens(role: dict[str, float]) -> float:
    return role.get("input_tokens", 0) + role.get("output_tokens", 0)
