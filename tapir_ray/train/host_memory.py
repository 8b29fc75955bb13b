"""Host memory while the weights of a model are read in pieces."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of `mallopt(3)`."""
_LARGE, _LARGEST = 64 * 2**10, 32 * 2**20


@contextmanager
def given_back() -> Iterator[None]:
    """Inside, a freed block of 64 KiB or more goes back to the system at once; elsewhere than on glibc nothing changes.

    glibc comes to keep freed blocks of up to 32 MiB in its heap, where the pieces of weights that are made between
    them pin them: reading a model in pieces then takes about the memory of the whole model. Afterwards blocks are kept
    as glibc would keep them once it had seen large ones.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)
