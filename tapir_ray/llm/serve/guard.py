"""Applications of Ray Serve that end with the driver that started them, also when it is killed.

beacon = guarded("RUN-teacher")       # this driver's; to be kept while the application is
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import ray

from tapir_ray.cluster.placement import with_driver

CHECK_S = 5.0
NAMESPACE = "tapir"


def guarded(name: str) -> Any:
    """An actor that dies with this driver, upon which the application NAME is ended: Serve itself would keep it, and
    its GPUs, for ever."""
    beacon: Any = ray.remote(_Beacon).options(num_cpus=0, **with_driver()).remote()
    end(name)  # of a driver that is gone
    guard: Any = ray.remote(_Guard)
    named = {"namespace": NAMESPACE, "name": f"guard-{name}"}
    guard.options(num_cpus=0, lifetime="detached", **named, **with_driver()).remote(name, beacon)
    return beacon


def delete(name: str) -> None:
    """End an application of Ray Serve; also one that is gone already."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    with suppress(ray.exceptions.RayError, RayServeException, RuntimeError):  # Serve is down, or does not know it
        serve.delete(name)


def end(name: str) -> None:
    """End the guard of an application, if it has one."""
    with suppress(ValueError):
        ray.kill(ray.get_actor(f"guard-{name}", namespace=NAMESPACE))


class _Beacon:
    """Lives as long as the driver that made it."""


class _Guard:
    """Ends an application once its driver's beacon is dead, and then itself."""

    def __init__(self, name: str, beacon: Any) -> None:
        self._name, self._beacon = name, beacon
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(CHECK_S)
            try:
                ray.get(self._beacon.__ray_ready__.remote(), timeout=60)
            except ray.exceptions.RayActorError:
                break
            except ray.exceptions.RayError:
                continue
        delete(self._name)
        end(self._name)
