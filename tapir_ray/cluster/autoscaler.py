"""Reads from the autoscaler's configuration which nodes it may add, because Ray 2.60 does not report them.

    for group in groups(): print(group.name, group.most, group.resources)

The configuration can be read on the machine of the head, where the driver of a job runs. It comes from the command line
of the autoscaler's process (`ray up`), or from Kubernetes (KubeRay), where the autoscaler runs in the pod of the head
with the same rights.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONFIG, CLUSTER = "--autoscaling-config=", "--gcs-address="
"""Command-line options of the autoscaler's process."""


@dataclass(frozen=True)
class Group:
    """Nodes of one type: `resources` of a node by Ray's names, and the highest number of nodes at once (`most`)."""

    name: str
    most: int
    resources: dict[str, float]


def groups() -> list[Group]:
    """Groups of worker nodes; empty if the cluster has no autoscaler, or if this is not the machine of its head."""
    import ray

    return _groups(ray.get_runtime_context().gcs_address)


@functools.lru_cache(maxsize=1)
def _groups(gcs_address: str) -> list[Group]:
    config = of_process(gcs_address) or of_kubernetes()
    return [] if config is None else groups_of(config)


def groups_of(config: dict[str, Any]) -> list[Group]:
    """The worker groups of an autoscaler's configuration, in the format of `ray up`."""
    kinds = config["available_node_types"]
    most = int(config.get("max_workers", 2))  # Ray's own default
    return [
        Group(name, min(int(kind.get("max_workers", most)), most), dict(kind.get("resources", {})))
        for name, kind in kinds.items()
        if name != config.get("head_node_type")
    ]


def of_process(gcs_address: str) -> dict[str, Any] | None:
    """The configuration file of this cluster's autoscaler; None if no process of this machine is the autoscaler."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if f"{CLUSTER}{gcs_address}" in words:
            for word in words:
                if word.startswith(CONFIG):
                    config: dict[str, Any] = yaml.safe_load(Path(word.removeprefix(CONFIG)).expanduser().read_text())
                    return config
    return None


def of_kubernetes() -> dict[str, Any] | None:
    """The configuration that KubeRay's autoscaler derives from the RayCluster of this pod; None outside of one."""
    name = os.environ.get("RAY_CLUSTER_NAME")
    if name is None or not NAMESPACE.exists():
        return None
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

    try:
        config: dict[str, Any] = AutoscalingConfigProducer(name, NAMESPACE.read_text().strip())()
    except OSError as error:  # exceptions of `requests` are OSErrors
        logging.getLogger(__name__).warning("the RayCluster %s cannot be read: %s", name, error)
        return None
    return config
