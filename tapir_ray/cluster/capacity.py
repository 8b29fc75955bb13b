"""Capacity of a cluster for a run, checked at its start and when nodes are lost.

if short := shortage(config, possible_nodes()): raise InputError(short)
with stopped_by_lost_nodes(config): ...
if not fits_with_servers(config, "train", live_nodes()): ...      # stop the local teacher first
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import add, le
from typing import Any

from tapir_ray.cluster.autoscaler import groups
from tapir_ray.cluster.interrupt import watched
from tapir_ray.config import Config, Replicas
from tapir_ray.errors import StageError

CHECK_S = 2.0
MOST_NODES = 1000
"""Most nodes of a group that count; keeps the search short for a group without a limit."""
MOST_LOOKED_AT = 5_000
"""Most steps of the search for placements (nodes times combinations of engines), which takes well under a second."""

KIND = "accelerator_type:"
"""Prefix of Ray's resource for the type of a node's GPUs, such as `accelerator_type:H100`."""

Node = dict[str, float]
"""Resources of a node: `CPU`, `GPU`, and KIND with the type of its GPUs."""


@contextmanager
def stopped_by_lost_nodes(config: Config) -> Iterator[None]:
    """Context manager that raises StageError in the main thread if lost nodes leave too little for the run.

    Waits `resources.lost_node_patience_s` for new nodes. Ray itself would wait for ever.
    """
    patience = config.resources.lost_node_patience_s
    since: float | None = None

    def look() -> StageError | None:
        nonlocal since
        short = shortage(config, possible_nodes())
        since = (since or time.monotonic()) if short else None
        if since is None or time.monotonic() - since <= patience:
            return None
        sentence = f"nodes were lost: {short}, or add nodes to the cluster and start the same command again"
        return StageError(f"{sentence}; finished rows are kept")

    with watched(look, CHECK_S, "capacity"):
        yield


def possible_nodes() -> list[Node]:
    """Returns the resources of each node of the cluster, and of each node that its autoscaler may add."""
    alive = _alive()
    nodes = [node["Resources"] for node in alive]
    there = Counter(node.get("Labels", {}).get("ray.io/node-group") for node in alive)
    for group in groups():
        # Only those that are not up yet: a node that is counts once.
        nodes += [group.resources] * (min(group.most, MOST_NODES) - there[group.name])
    return [_node(resources) for resources in nodes]


def live_nodes() -> list[Node]:
    """Returns the resources of each node that the cluster has now."""
    return [_node(node["Resources"]) for node in _alive()]


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _node(resources: Mapping[str, float]) -> Node:
    kind = {name: float(has) for name, has in resources.items() if name.startswith(KIND)}
    return {"CPU": float(resources.get("CPU", 0.0)), "GPU": float(resources.get("GPU", 0.0)), **kind}


def model_servers(config: Config) -> dict[str, Replicas]:
    """Returns the resources of the models that the run serves itself, by role."""
    claims = {role: one.spec.claims(config.resources, role) for role, one in config.endpoints.items()}
    return {role: claim for role, claim in claims.items() if claim is not None}


def claimed(config: Config) -> dict[str, Replicas]:
    """Returns all claims of the run by their key in `resources`."""
    resources = config.resources
    claims = model_servers(config)
    if config.regenerate is None:
        claims["train"] = resources.train
        if (student := config.student.spec.claims(resources, "student")) is not None:
            claims["student"] = student
    if config.classify.by == "deberta":
        claims["classifier"] = resources.classifier
    return claims


def shortage(config: Config, nodes: Sequence[Node]) -> str | None:
    """Returns a message with the claims that can never be placed on these nodes and the keys to change; None if all
    fit.
    """
    found = []
    cpus, stages = sum(node["CPU"] for node in nodes), _of_stages(config)
    if cpus < stages:
        found.append(f"the stages need {stages:g} CPUs but the cluster has {cpus:g}; lower resources.transform_cpus")
    kept = kept_student(config)
    for name, claim in claimed(config).items():
        # A local teacher and judge are stopped for the student and for training. The classifier works at the same time
        # as they do, except in a regeneration, which labels all rows before it sends the first request.
        alone = name in ("student", "train") or (name == "classifier" and config.regenerate is not None)
        others = {} if alone else {key: one for key, one in model_servers(config).items() if key != name}
        if short := _short(config, name, claim, others, nodes):
            found.append(short)
        elif kept and name in ("train", "classifier", "student"):
            # Next to a kept engine nothing can be stopped to make room but the models that the run serves.
            others = (model_servers(config) if name != "train" else {}) | (kept if name != "student" else {})
            if short := _short(config, name, claim, others, nodes):
                found.append(f"{short}, or set resources.student.keep=false, so that engines leave room between tables")
    return "; ".join(found) or None


def kept_student(config: Config) -> dict[str, Replicas]:
    """Returns the resources of the student's engines by `student` if they are kept between tables, else nothing."""
    kept = config.regenerate is None and config.resources.student.keep and config.student.spec.keeps
    return {"student": config.resources.student} if kept else {}


def fits_with_kept(config: Config, name: str, nodes: Sequence[Node]) -> bool:
    """Whether `resources.<name>` fits next to the student's kept engines, in the worst placement."""
    claim = getattr(config.resources, name)
    return _short(config, name, claim, kept_student(config), nodes, worst=True) is None


def fits_with_servers(config: Config, name: str, nodes: Sequence[Node]) -> bool:
    """Whether `resources.<name>` fits next to the local teacher and judge, and next to the student's kept engines.

    They count with their highest number of replicas, in the worst placement that Ray may have chosen.
    """
    # Ray Serve may have scaled them up to this number.
    grown = {role: claim.model_copy(update={"min_replicas": None}) for role, claim in model_servers(config).items()}
    grown |= {role: claim for role, claim in kept_student(config).items() if role != name}
    return _short(config, name, getattr(config.resources, name), grown, nodes, worst=True) is None


def _short(
    config: Config,
    name: str,
    claim: Replicas,
    others: Mapping[str, Replicas],
    nodes: Sequence[Node],
    worst: bool = False,
) -> str | None:
    """Returns a message as `shortage` does, for one claim next to the `others`; None if it fits.

    The others are placed where they leave the most workers for the claim, or with `worst` the fewest.
    """
    ranks = claim.tensor_parallel
    size = f"{ranks * claim.cpus:g} CPUs and {ranks * claim.gpus:g} GPUs{_of_kind(claim)}"
    places = _fitting_with(claim, list(others.values()), nodes, worst)
    stages = 0.0 if name == "train" else _of_stages(config)
    for_others = stages + sum(other.fewest * other.tensor_parallel * other.cpus for other in others.values())
    cpus, gpus = (sum(node[resource] for node in nodes) for resource in ("CPU", "GPU"))
    needed = claim.fewest * ranks * claim.cpus + for_others
    if needed > cpus:
        return (
            f"resources.{name} needs {needed:g} CPUs ({claim.fewest} x {ranks * claim.cpus:g}, and {for_others:g} for "
            f"other work) but the cluster has {cpus:g}; lower resources.{name}.{_number(claim)} or .cpus"
        )
    held = sum(other.fewest * other.tensor_parallel * other.gpus for other in others.values())
    asked = claim.fewest * ranks * claim.gpus
    if asked + held > gpus:
        kept = f" next to {held:g} for {_and(others)}" if held else ""
        return (
            f"resources.{name} asks for {asked:g} GPUs{kept} but the cluster has {gpus:g}; "
            f"lower resources.{name}.gpus, .tensor_parallel or .{_number(claim)}"
        )
    if claim.accelerator_type and not any(KIND + claim.accelerator_type in node for node in nodes):
        kinds = sorted({key.removeprefix(KIND) for node in nodes for key in node if key.startswith(KIND)})
        return (
            f"resources.{name}.accelerator_type is {claim.accelerator_type}, which no node of the cluster has; "
            f"set it to one of theirs ({', '.join(kinds) or 'none of them names a type'}), or to null for any"
        )
    if places < claim.fewest:
        spread = ", .tensor_parallel" if ranks > 1 else ""
        return (
            f"resources.{name} needs {claim.fewest} workers of {size}, each on one node, and the nodes have room for "
            f"{places}{f' next to {_and(others)}' if others else ''}; "
            f"lower resources.{name}.cpus, .gpus{spread} or .{_number(claim)}"
        )
    return None


def fitting(claim: Replicas, nodes: Sequence[Node]) -> int:
    """Returns the workers, or engines with all their ranks on one node, that fit on these nodes if they are empty.

    fitting(Replicas(cpus=2), [{"CPU": 5, "GPU": 0}, {"CPU": 3, "GPU": 0}])  # 3
    """
    return sum(_fitting(node, claim) for node in nodes)


def _fitting_with(claim: Replicas, others: Sequence[Replicas], nodes: Sequence[Node], worst: bool) -> int:
    """Returns the workers of `claim` that fit next to the engines of `others`, in their best (or worst) placement.

    An exact search, node by node: for each combination of engines placed so far it keeps the best (worst) number
    of workers. Example: two nodes of 4 GPUs, two teachers of 2 GPUs each and workers of 4 GPUs. At best both teachers
    share a node and 1 worker fits; at worst each has a node of its own and none fits.

    In clusters that need more than MOST_LOOKED_AT steps the others are ignored.
    """
    wanted = [other.fewest for other in others]
    if len(nodes) * math.prod(number + 1 for number in wanted) > MOST_LOOKED_AT:
        return fitting(claim, nodes)
    sign = -1 if worst else 1
    found = {tuple(0 for _ in others): 0}
    for node in nodes:
        after: dict[tuple[int, ...], int] = {}
        for held, left in _ways(node, others, wanted):
            for placed, places in found.items():
                total = tuple(map(add, placed, held))
                if all(map(le, total, wanted)):
                    here = places + sign * _fitting(left, claim)
                    after[total] = max(after.get(total, here), here)
        found = after
    # Engines that fit nowhere are left out: only the combinations with the most placed engines count.
    most = max(map(sum, found))
    return sign * max(places for placed, places in found.items() if sum(placed) == most)


def _ways(node: Node, others: Sequence[Replicas], wanted: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Node]]:
    """Yields (engines of each of `others` on a node, its free resources) for all combinations that fit."""
    most = [min(number, _fitting(node, other)) for other, number in zip(others, wanted, strict=True)]
    for held in itertools.product(*(range(number + 1) for number in most)):
        cpus, gpus = (
            sum(number * one.tensor_parallel * claim for number, one, claim in zip(held, others, claims, strict=True))
            for claims in ([other.cpus for other in others], [other.gpus for other in others])
        )
        left = {**node, "CPU": node["CPU"] - cpus, "GPU": node["GPU"] - gpus}
        if min(left["CPU"], left["GPU"]) > -1e-6:  # sums of fractions such as 0.1 are not exact
            yield held, left


def _fitting(node: Node, claim: Replicas) -> int:
    if claim.accelerator_type and KIND + claim.accelerator_type not in node:
        return 0
    claims = ((node["CPU"], claim.cpus), (node["GPU"], claim.gpus))
    # 1e-6, because 0.3 / 0.1 is a little less than 3.
    return min((int(has / (each * claim.tensor_parallel) + 1e-6) for has, each in claims if each), default=MOST_NODES)


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)


def _of_kind(claim: Replicas) -> str:
    return f" of type {claim.accelerator_type}" if claim.accelerator_type else ""


def _of_stages(config: Config) -> float:
    """Returns the CPUs of the plain stages of a pipeline, which run at the same time as its engine."""
    # Read, repartition, prompt, judge, collect and write.
    return 6 * config.resources.transform_cpus


def _number(claim: Replicas) -> str:
    return "replicas" if claim.min_replicas is None else "min_replicas"
