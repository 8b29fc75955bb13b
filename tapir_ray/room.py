"""Whether a cluster has room for a run: at its start, and when nodes are lost on the way.

if short := shortage(config, room()): raise InputError(short)
with stopped_by_lost_nodes(config): ...
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tapir_ray.config import Config, Replicas
from tapir_ray.errors import StageError
from tapir_ray.interrupt import interrupt

CHECK_S = 2.0


@contextmanager
def stopped_by_lost_nodes(config: Config) -> Iterator[None]:
    """Raise StageError in the main thread once the cluster has had too little for the run for
    `resources.lost_node_patience_s`; a new node in that time is as good as the lost one.

    Ray itself would wait for ever for a place.
    """
    patience, ended = config.resources.lost_node_patience_s, threading.Event()

    def watch() -> None:
        since: float | None = None
        while not ended.wait(CHECK_S):
            try:
                short = shortage(config, room())
            except Exception as error:  # the cluster's head is away for a moment, or for good: Ray ends the driver then
                logging.getLogger(__name__).debug("the cluster's resources are not known: %s", error)
                continue
            since = (since or time.monotonic()) if short else None
            if since is not None and time.monotonic() - since > patience:
                sentence = f"nodes were lost: {short}, or give the cluster nodes again and start the same command"
                interrupt(StageError(f"{sentence}; what is finished is kept"))
                return

    watcher = threading.Thread(target=watch, daemon=True, name="tapir-room")
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def room() -> dict[str, float]:
    """CPUs and GPUs of the cluster, with what its autoscaler may add where it has one."""
    import ray
    from ray._private.state import state

    now, most = ray.cluster_resources(), state.get_max_resources_from_cluster_config() or {}
    return {name: max(now.get(name, 0.0), float(most.get(name, 0))) for name in ("CPU", "GPU")}


def shortage(config: Config, available: Mapping[str, float]) -> str | None:
    """A sentence that names the key to change, where a part of the run can never be placed on the cluster."""
    resources = config.resources
    local = [key for key, endpoint in config.endpoints.items() if endpoint.engine == "vllm"]
    served: dict[str, Replicas] = {key: getattr(resources, key) for key in local}
    parts = {**served, "train": resources.train}
    if config.student.engine == "vllm":
        parts["student"] = resources.student
    if config.classify.by == "deberta":
        parts["classifier"] = resources.classifier
    cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    for name, part in parts.items():
        # Beside an engine run the plain stages of its pipeline: read, prompt, judge, collect, write.
        beside = 0.0 if name == "train" else 6 * resources.stage_cpus
        # A local teacher and judge stay while the others come and go.
        others = [other for key, other in served.items() if key != name]
        beside += sum(other.tensor_parallel * other.cpus for other in others)
        needed = part.replicas * part.tensor_parallel * part.cpus + beside
        if needed > cpus:
            return (
                f"resources.{name} needs {needed:g} CPUs ({part.replicas} x {part.cpus:g}, and {beside:g} for what "
                f"runs beside it) but the cluster has {cpus:g}; lower resources.{name}.replicas or .cpus"
            )
        held = sum(other.tensor_parallel * other.gpus for other in others)
        asked = part.replicas * part.tensor_parallel * part.gpus
        if asked + held > gpus:
            kept = f" beside {held:g} for {' and '.join(key for key in served if key != name)}" if held else ""
            return (
                f"resources.{name} asks for {asked:g} GPUs{kept} but the cluster has {gpus:g}; "
                f"lower resources.{name}.gpus or .replicas"
            )
    return None
