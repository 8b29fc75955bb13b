"""Runs a coroutine to its end, also in a thread whose event loop runs already, as in a notebook.

names = complete(asked(target))
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def complete(work: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine, which runs in an event loop of its own. Raises what it raises."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # A loop that runs cannot wait for another one in its thread.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, work).result()
