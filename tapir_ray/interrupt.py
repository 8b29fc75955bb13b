"""An error that another thread has found, raised in the main one, whatever that is waiting for.

with interruptible():                                    # in the main thread
    for block in pipeline: ...                           # a watcher: interrupt(StageError("…"))
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
