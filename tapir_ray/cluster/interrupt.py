"""An error that another thread has found, raised in the main one, whatever that is waiting for; and the other way.

with interruptible():                                    # in the main thread
    for block in pipeline: ...                           # a watcher: interrupt(StageError("…"))

with beside(work) as done:                               # in a thread: leave_if_asked(), now and then
    ...                                                  # what is raised here ends the work, too
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
"""In the thread of `beside`: set where it shall end."""

JOIN_S = 10.0
"""How long a look that waits for a cluster that is gone may hold up the end."""

T = TypeVar("T")

_waiting: list[Exception] = []
_open = threading.Event()
_sending = threading.RLock()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let `interrupt` raise here; does nothing outside the main thread, the only one that Python can interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: object) -> None:
        if _waiting:
            raise _waiting.pop(0)

    before = signal.signal(signal.SIGUSR1, stop)
    _open.set()
    try:
        yield
    finally:
        # An interrupt on its way must still find the handler, and nothing to raise.
        with _sending:
            _open.clear()
            _waiting.clear()
        signal.signal(signal.SIGUSR1, before)


def interrupt(error: Exception) -> None:
    """Raise an error in the main thread; nothing happens where it is not `interruptible`."""
    with _sending:
        if _open.is_set():
            _waiting.append(error)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


@contextmanager
def watched(look: Callable[[], Exception | None], every_s: float, name: str) -> Iterator[None]:
    """Call `look` in a thread of its own, again and again; what it returns for an error is raised in the main thread.

    An error that it raises itself ends nothing: the next look may see more.
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
def beside(work: Callable[[], T]) -> Iterator[Future[T]]:
    """`work()` in a thread of its own, which ends with the block: where that raises, at its next `leave_if_asked`.

    A thread that goes on after Ray is shut down would start it anew, or crash the process.
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
    """Raises Stopped in a thread of `beside` whose block has ended with an error."""
    asked = _asked.get()
    if asked is not None and asked.is_set():
        raise Stopped("what it was beside has ended")
