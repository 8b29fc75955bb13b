"""The end of a pipeline with an exhausted budget, decided by its blocks and the requests in flight."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tapir_ray.errors import Stopped
from tapir_ray.run import row_counter
from tapir_ray.run.row_counter import RowCounter
from tapir_ray.run.tables import Tables

BLOCKS = 100


class Clock:
    """A clock that stands still between blocks, so that a busy machine changes nothing."""

    def __init__(self) -> None:
        self.now = 1.0

    def monotonic(self) -> float:
        return self.now


def blocks(unasked: int, clock: Clock) -> Iterator[dict[str, Any]]:
    """Yields a block each second with rows that need no request, such as filtered ones."""
    for _ in range(BLOCKS):
        clock.now += 1.0
        yield {"rows": 3, "failed": 0, "unasked": unasked, "error": None}


def seen(unasked: int, drained: Iterator[bool], monkeypatch: pytest.MonkeyPatch) -> tuple[int, RowCounter]:
    clock = Clock()
    monkeypatch.setattr(row_counter, "time", clock)
    run = cast(Tables, SimpleNamespace(progress=None, event=lambda kind, **fields: None))
    counting = RowCounter(run, "t", None, 1.0, lambda: next(drained))
    return len(list(counting.counted(blocks(unasked, clock)))), counting


def test_rows_without_a_request_do_not_keep_a_pipeline_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise millions of filtered rows would be written before a run with an exhausted budget could stop."""
    count, counting = seen(1, iter(lambda: True, None), monkeypatch)
    assert count == row_counter.DRAIN_S + 1
    with pytest.raises(Stopped, match="budget"):
        counting.check()


def test_requests_in_flight_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request in flight starts the wait again."""
    now_and_then = (number % 5 != 0 for number in range(10 * BLOCKS))
    assert seen(1, now_and_then, monkeypatch)[0] == BLOCKS


def test_a_pipeline_without_unasked_rows_runs_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    count, counting = seen(0, iter(lambda: True, None), monkeypatch)
    assert count == BLOCKS
    counting.check()
