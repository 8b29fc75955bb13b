"""Ends applications of Ray Serve with the driver that started them, even if it is killed.

beacon = guarded("RUN-teacher")       # keep the handle as long as the application: without it the actor ends
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import ray

from tapir_ray.cluster.placement import NAMESPACE, with_driver

CHECK_S = 5.0


def guarded(name: str) -> Any:
    """Returns an actor that dies with this driver. A detached guard then ends the application `name`.

    Serve itself would keep the application and its GPUs for ever.
    """
    beacon: Any = ray.remote(_Beacon).options(num_cpus=0, **with_driver()).remote()
    end(name)  # the guard of an earlier driver
    guard: Any = ray.remote(_Guard)
    named = {"namespace": NAMESPACE, "name": f"guard-{name}"}
    guard.options(num_cpus=0, lifetime="detached", **named, **with_driver()).remote(name, beacon)
    return beacon


def delete(name: str) -> None:
    """Deletes an application of Ray Serve. An application that does not exist is no error."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    with suppress(ray.exceptions.RayError, RayServeException, RuntimeError):  # Serve is down, or does not know it
        serve.delete(name)


def end(name: str) -> None:
    """Kills the guard of an application, if it has one."""
    with suppress(ValueError):
        ray.kill(ray.get_actor(f"guard-{name}", namespace=NAMESPACE))


class _Beacon:
    """Actor that lives as long as the driver that created it."""


class _Guard:
    """Actor that ends an application once the beacon of its driver is dead, and then itself."""

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
                continue  # a timeout of a busy cluster does not show that the driver has ended
        delete(self._name)
        end(self._name)
