"""Where actors that claim nothing live.

actor.options(**with_driver()).remote(…)
"""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def with_driver() -> dict[str, Any]:
    """Ray options for the node of this process, with which the actor ends.

    Ray would place an actor without a claim on any node (a soft affinity now and then too), and an autoscaler keeps a
    node that has one, with its GPUs, however idle it is.
    """
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)}
