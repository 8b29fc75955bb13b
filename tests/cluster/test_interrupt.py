"""Background threads that end when they are asked to."""

from __future__ import annotations

import threading
import time

import pytest

from tapir_ray.cluster.interrupt import in_background, leave_if_asked
from tapir_ray.errors import StageError, Stopped


def until_asked(seen: list[BaseException]) -> str:
    try:
        for _ in range(1000):
            leave_if_asked()
            time.sleep(0.01)
    except BaseException as error:
        seen.append(error)
        raise
    return "not asked"


def test_background_work_ends_when_its_block_fails() -> None:
    before, seen = threading.active_count(), list[BaseException]()
    with pytest.raises(StageError, match="the block's"), in_background(lambda: until_asked(seen)):
        time.sleep(0.1)
        raise StageError("the block's")
    assert [type(error) for error in seen] == [Stopped]
    assert threading.active_count() == before


def test_background_work_returns_its_result_or_raises_its_error() -> None:
    with in_background(lambda: 7) as made:
        assert made.result() == 7

    def fail() -> None:
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"), in_background(fail) as failed:
        failed.result()


def test_a_block_ends_only_its_own_background_work() -> None:
    go_on = threading.Event()

    def waits() -> str:
        go_on.wait(10)
        leave_if_asked()
        return "to its end"

    with in_background(waits) as other:
        with pytest.raises(StageError), in_background(leave_if_asked):
            raise StageError("of another block")
        leave_if_asked()
        go_on.set()
        assert other.result() == "to its end"
