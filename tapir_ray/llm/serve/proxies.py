"""Proxies of Ray Serve: one port of loopback, on the head and on each node with a part of an application.

url = f"http://127.0.0.1:{port()}/NAME/v1"
ray.remote(Asker).options(**worker_options(["teacher"]))      # on a node with a proxy, which can reach the URL
with stopped_if_stranded(): ...                               # raises if such workers have no node left
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from tapir_ray.cluster.interrupt import watched
from tapir_ray.errors import StageError

TIMEOUT_S = 120.0
"""Seconds for which no node may have a healthy proxy before the run ends."""
CHECK_S = 5.0
NODE_ID = "ray.io/node-id"


def port() -> int:
    """Returns the port of Serve, the same on all nodes. Starts Serve on loopback if the cluster has none yet."""
    from ray import serve
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        quiet = {"enable_access_log": False}  # the default is a line for each request
        options = {"host": "127.0.0.1", "port": port}
        serve.start(proxy_location="EveryNode", http_options=options, logging_config=quiet)
        client = _get_global_client()
    return int(client.http_config.port)


def listening() -> list[str]:
    """Returns the ids of the nodes with CPUs and a healthy proxy: nodes with a part of an application, and the head."""
    from ray import serve

    able = {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
    return sorted(node for node, status in serve.status().proxies.items() if status.value == "HEALTHY" and node in able)


def worker_options(roles: Collection[str]) -> dict[str, Any]:
    """Returns Ray options for a worker that sends requests to the applications of these roles; {} without roles.

    Raises StageError if no node has a healthy proxy for TIMEOUT_S.
    """
    if not roles:
        return {}
    deadline = time.monotonic() + TIMEOUT_S
    while not (nodes := listening()):
        if time.monotonic() > deadline:
            raise StageError(
                f"Ray Serve has had no healthy proxy on a node with CPUs for {TIMEOUT_S:g} s, so no requests reach "
                f"the {' and '.join(sorted(roles))}: its log is serve/proxy_*.log in the log folder of each node; "
                "start the same command again to continue"
            )
        time.sleep(0.5)
    return {"label_selector": {NODE_ID: f"in({','.join(nodes)})"}}


@contextmanager
def stopped_if_stranded() -> Iterator[None]:
    """Context manager that raises StageError in the main thread if all nodes for a pipeline's workers are lost.

    Ray restarts a worker with `worker_options` on the nodes named in them only, so the pipeline would wait for ever.
    """
    with watched(_stranded, CHECK_S, "proxies"):
        yield


def _stranded() -> StageError | None:
    # Imported here, because it loads Ray Data.
    from tapir_ray.cluster.pipeline_monitor import label_selectors

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    for selector in label_selectors():
        nodes = selector.get(NODE_ID, "").removeprefix("in(").removesuffix(")").split(",")
        if nodes != [""] and not alive.intersection(nodes):
            return StageError(
                "every node that could send requests to the local models is lost; finished rows are kept, start the "
                "same command again to continue"
            )
    return None
