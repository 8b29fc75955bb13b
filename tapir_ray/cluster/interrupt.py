"""Passes errors between threads: from a watcher to the waiting main thread, and from a block to its background work.

with interruptible():                                    # in the main thread
    for block in pipeline: ...                           # a watcher calls interrupt(StageError("…"))

with in_background(work) as done:                               # `work` calls leave_if_asked() now and then
    ...                                                  # an exception here ends `work` too
    done.result()
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tapir_ray.errors import Stopped

_asked: ContextVar[threading.Event | None] = ContextVar("asked", default=None)
"""Event in the thread of `in_background`, set when the thread has to end."""

JOIN_S = 10.0
"""Longest wait at the end for a watcher, in seconds: it may wait for a cluster that no longer exists."""

T = TypeVar("T")

_waiting: list[Exception] = []
_open = threading.Event()
_polled = threading.Event()
_sending = threading.RLock()


@contextmanager
def interruptible(signals: bool = True) -> Iterator[None]:
    """Context manager in which `interrupt` raises.

    Without `signals`, and outside the main thread, which alone Python interrupts, the error is raised by
    `raise_interrupt`: a Ray Data pipeline calls it at every step.
    """
    if not signals or threading.current_thread() is not threading.main_thread():
        _polled.set()
        try:
            yield
        finally:
            with _sending:
                _polled.clear()
                _waiting.clear()
        return

    def stop(_: int, __: object) -> None:
        if _waiting:
            raise _waiting.pop(0)

    before = signal.signal(signal.SIGUSR1, stop)
    _open.set()
    try:
        yield
    finally:
        # A signal that is already sent must still find this handler (the default one ends the process), but no error.
        with _sending:
            _open.clear()
            _waiting.clear()
        signal.signal(signal.SIGUSR1, before)


def interrupt(error: Exception) -> None:
    """Raises an error in the thread that is in `interruptible`. Does nothing without one."""
    with _sending:
        if _polled.is_set():
            _waiting.append(error)
        # By a signal, because only a signal handler can raise in a thread that waits in compiled code.
        elif _open.is_set():
            _waiting.append(error)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def raise_interrupt() -> None:
    """Raises the error of `interrupt`, if there is one that no signal raises."""
    with _sending:
        if _polled.is_set() and _waiting:
            raise _waiting.pop(0)


@contextmanager
def watched(look: Callable[[], Exception | None], every_s: float, name: str) -> Iterator[None]:
    """Calls `look` every `every_s` seconds in a background thread; raises an error that it returns in the main thread.

    An exception that `look` itself raises is only logged, because the next call may succeed.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            try:
                error = look()
            except Exception as problem:
                logging.getLogger(__name__).debug("the watch of %s: %s", name, problem)
                continue
            if error is not None:
                interrupt(error)
                return

    watcher = threading.Thread(target=watch, daemon=True, name=f"tapir-{name}")
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join(JOIN_S)


@contextmanager
def in_background(work: Callable[[], T]) -> Iterator[Future[T]]:
    """Runs `work()` in a background thread, which ends with the block. Yields its Future.

    If the block raises, the thread ends at its next `leave_if_asked`. A thread that continued after the shutdown of Ray
    would start Ray again, or crash the process.
    """
    asked = threading.Event()

    def run() -> T:
        _asked.set(asked)
        return work()

    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            yield pool.submit(run)
        except BaseException:
            asked.set()
            raise


def leave_if_asked() -> None:
    """Raises Stopped in a thread of `in_background` whose block has ended with an error."""
    asked = _asked.get()
    if asked is not None and asked.is_set():
        raise Stopped("the block that started this work has ended with an error")
