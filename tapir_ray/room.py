"""Whether a cluster has room for a run: at its start, and when nodes are lost on the way.

if short := shortage(config, room()): raise InputError(short)
with stopped_by_lost_nodes(config): ...
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tapir_ray.config import Config, Replicas
from tapir_ray.errors import StageError
from tapir_ray.interrupt import watched

CHECK_S = 2.0
MOST_NODES = 1000
"""Nodes an autoscaler without a limit is taken to add."""

Node = dict[str, float]
"""What a node has: `CPU` and `GPU`."""


@contextmanager
def stopped_by_lost_nodes(config: Config) -> Iterator[None]:
    """Raise StageError in the main thread once the cluster has had too little for the run for
    `resources.lost_node_patience_s`; a new node in that time is as good as the lost one.

    Ray itself would wait for ever for a place.
    """
    patience = config.resources.lost_node_patience_s
    since: float | None = None

    def look() -> StageError | None:
        nonlocal since
        short = shortage(config, room())
        since = (since or time.monotonic()) if short else None
        if since is None or time.monotonic() - since <= patience:
            return None
        sentence = f"nodes were lost: {short}, or give the cluster nodes again and start the same command"
        return StageError(f"{sentence}; what is finished is kept")

    with watched(look, CHECK_S, "room"):
        yield


def room() -> list[Node]:
    """CPUs and GPUs of each node of the cluster, and of those that its autoscaler may add where it has one."""
    import ray
    from ray._private.state import state

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    config = state.get_cluster_config()
    for group in config.node_group_configs if config is not None else ():
        count = group.max_count if 0 <= group.max_count <= MOST_NODES else MOST_NODES
        nodes += [dict(group.resources)] * count
    return [{name: float(node.get(name, 0.0)) for name in ("CPU", "GPU")} for node in nodes]


def shortage(config: Config, nodes: Sequence[Node]) -> str | None:
    """A sentence that names the key to change, where a part of the run can never be placed on the cluster's nodes."""
    resources = config.resources
    local = [key for key, endpoint in config.endpoints.items() if endpoint.engine == "vllm"]
    served: dict[str, Replicas] = {key: getattr(resources, key) for key in local}
    parts = dict(served)
    if config.regenerate is None:
        parts["train"] = resources.train
        if config.student.engine == "vllm":
            parts["student"] = resources.student
    if config.classify.by == "deberta":
        parts["classifier"] = resources.classifier
    cpus, gpus = (sum(node[name] for node in nodes) for name in ("CPU", "GPU"))
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
        workers = part.replicas * part.tensor_parallel
        places = sum(_places(node, part) for node in nodes)
        if places < workers:
            return (
                f"resources.{name} needs {workers} workers of {part.cpus:g} CPUs and {part.gpus:g} GPUs, each on one "
                f"node, and the nodes have room for {places}; lower resources.{name}.cpus, .gpus or .replicas"
            )
    return None


def _places(node: Node, part: Replicas) -> int:
    """How many workers fit on an empty node."""
    claims = ((node["CPU"], part.cpus), (node["GPU"], part.gpus))
    return min((int(has / claim + 1e-6) for has, claim in claims if claim), default=MOST_NODES)
