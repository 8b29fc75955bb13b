"""Samples the peak of this process's private memory in a thread, for benchmarks/memory.py."""

from __future__ import annotations

import threading
import time

EVERY_S = 0.005


class Sampler:
    """Sampler of `RssAnon`: private memory of the process, without mapped files."""

    def __init__(self) -> None:
        self.before = self.peak = private_kib()
        threading.Thread(target=self._sample, daemon=True).start()

    def peak_mib(self) -> float:
        """Returns the peak so far above the first sample, in MiB."""
        return round((self.peak - self.before) / 1024, 1)

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, private_kib())
            time.sleep(EVERY_S)


def private_kib() -> int:
    """Returns the current `RssAnon` of this process in KiB."""
    with open("/proc/self/status") as status:
        return int(next(line.split()[1] for line in status if line.startswith("RssAnon")))
