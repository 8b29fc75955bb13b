"""The peak of this process's private memory, sampled by a thread: for benchmarks/memory.py."""

from __future__ import annotations

import threading
import time

EVERY_S = 0.005


class Sampler:
    """Samples `RssAnon` from now on: memory of the process's own, without files that are mapped."""

    def __init__(self) -> None:
        self.before = self.peak = private_kib()
        threading.Thread(target=self._sample, daemon=True).start()

    def peak_mib(self) -> float:
        """The most so far above what there was at first, in MiB."""
        return round((self.peak - self.before) / 1024, 1)

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, private_kib())
            time.sleep(EVERY_S)


def private_kib() -> int:
    """`RssAnon` of this process now."""
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("RssAnon")))
