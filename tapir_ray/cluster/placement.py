"""Placement and namespace of the actors that claim no resources.

actor.options(**with_driver()).remote(…)
"""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NAMESPACE = "tapir"
"""Ray namespace of named actors: another driver finds them there."""


def with_driver() -> dict[str, Any]:
    """Ray options that place an actor on the node of this process; the actor ends with the node.

    Ray may place an actor without a claim on any node, sometimes even with a soft affinity. An autoscaler keeps a node
    with an actor, including its idle GPUs.
    """
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)}
