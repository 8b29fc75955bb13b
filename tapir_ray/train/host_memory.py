"""Limits host memory while the weights of a model are read in pieces."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of `mallopt(3)`."""
_LARGE, _LARGEST = 64 * 2**10, 32 * 2**20


@contextmanager
def given_back() -> Iterator[None]:
    """Context manager: freed blocks of 64 KiB or more return to the system at once. Does nothing without glibc.

    glibc raises its threshold as large blocks are freed, and then keeps freed blocks of up to 32 MiB in its heap. The
    pieces of weights allocated between them pin them there, so reading a model in pieces would need about the memory of
    the whole model. On exit the thresholds are set to those that glibc itself reaches after large blocks.
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
