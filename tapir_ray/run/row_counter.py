"""Counts written rows by status, and ends a pipeline when too many fail or the budget is used up.

counter = RowCounter(run, "rounds/01/scored", expected=1000, max_error_rate=0.05, drained=roles.drained)
for block in counter.counted(blocks.written(rows, …)): ...
counter.check()
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from tapir_ray.cluster.interrupt import leave_if_asked
from tapir_ray.errors import StageError, Stopped

if TYPE_CHECKING:
    from tapir_ray.run.tables import Tables

LEAST_ERRORS = 10
"""Fewest failed rows that end a running stage: with few rows, one error is already a high rate."""
DRAIN_S = 10.0
"""Seconds without a request in flight, after the end of the budget, before the pipeline is stopped."""


class RowCounter:
    """Counter of the rows of one pipeline, shown in the progress line of its `table`, or of `stage` if that is given.

    `carried` is the number of rows that had failed in an earlier table, and do not count as errors of this pipeline.
    """

    def __init__(
        self,
        run: Tables,
        table: str,
        expected: int | None,
        max_error_rate: float,
        drained: Callable[[], bool],
        stage: str | None = None,
        carried: int = 0,
    ) -> None:
        self._run, self._table, self._expected = run, table, expected
        self._stage = table if stage is None else stage
        self._max_error_rate, self._drained = max_error_rate, drained
        self._started, self._begun = time.monotonic(), False
        self._drained_at: float | None = None
        self._unasked, self._failed = 0, -carried
        self._errors: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def counted(self, blocks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yields the blocks (rows of `blocks.WRITTEN`) as they come.

        Ends early if the budget is used up and no request was in flight for DRAIN_S (`drained`). Otherwise a local
        student would go through all remaining rows, although none of them will be judged.

        Raises StageError if too many rows fail or if nothing happens any more, Stopped if its thread was asked to end.
        """
        # Imported here, because it loads Ray Data.
        from ray.data.exceptions import ExecutionTimeoutError

        try:
            for block in blocks:
                leave_if_asked()
                self._add(block)
                if self._is_drained():
                    break
                yield block
        except ExecutionTimeoutError as error:
            # Ray names the timeout only; the operator that the pipeline waited for says more.
            waits = self._run.progress.waits(self._stage) if self._run.progress is not None else None
            why = waits or str(error).strip().partition("\n")[0]
            raise StageError(f"{self._table}: no progress for resources.no_progress_timeout_s; {why}") from error

    def check(self) -> None:
        """Raises Stopped if rows were not asked because the budget is used up.

        Raises StageError if they were not asked because the usage cannot be written to storage.
        """
        if self._unasked:
            self._drained()  # raises StageError if storage is the cause
            raise Stopped("the budget is used up; raise budget.max_cost or budget.max_tokens and start again")

    def _add(self, block: dict[str, Any]) -> None:
        self._unasked += block["unasked"]
        self._failed += block["failed"]
        if block["failed"]:
            kind = kind_of(block["error"])
            self._errors[kind] += block["failed"]
            self._examples.setdefault(kind, block["error"])
        if block["rows"] and not self._begun:
            self._begun = True
            # The time to the first rows is mostly the start of engines and workers.
            seconds = round(time.monotonic() - self._started, 2)
            self._run.event("first_rows", table=self._table, seconds=seconds)
        if self._run.progress is not None:
            self._run.progress.count(self._stage, block["rows"], block["failed"])
        expected = self._expected
        if expected is not None and self._failed > max(LEAST_ERRORS, self._max_error_rate * expected):
            (kind, _), *_ = self._errors.most_common(1)
            example = self._examples[kind]
            raise StageError(too_many(self._table, self._failed, expected, self._max_error_rate, example))

    def _is_drained(self) -> bool:
        if not (self._unasked and self._drained()):
            self._drained_at = None
            return False
        now = time.monotonic()
        self._drained_at = self._drained_at or now
        return now - self._drained_at > DRAIN_S


def kind_of(reason: str | None) -> str:
    """Returns the part of a reason before its colon, by which rows are counted: `engine_error` for
    `engine_error: CUDA out of memory`.
    """
    return (reason or "unknown").partition(":")[0]


def too_many(table: str, failed: int, rows: int, rate: float, example: str) -> str:
    """Returns the message that ends a stage with too many failed rows."""
    return (
        f"{table}: {failed} of {rows} rows failed, more than max_error_rate {rate:g}, for example: {example}. "
        "Fix the cause and start again (failed rows are asked again), or raise max_error_rate"
    )
