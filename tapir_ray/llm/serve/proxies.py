"""Where Ray Serve listens: on one port of loopback, on the head and on each node that holds a part of an application.

url = f"http://127.0.0.1:{port()}/NAME/v1"
ray.remote(Asker).options(**beside(["teacher"]))      # on a node from which that can be reached
with stopped_if_stranded(): ...                       # ends where such workers have no node left
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
"""How long Serve may listen nowhere, once it has."""
CHECK_S = 5.0
NODE_ID = "ray.io/node-id"


def port() -> int:
    """Where Serve listens on each of its nodes; started on loopback if the cluster has none yet."""
    from ray import serve
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        quiet = {"enable_access_log": False}
        options = {"host": "127.0.0.1", "port": port}
        serve.start(proxy_location="EveryNode", http_options=options, logging_config=quiet)
        client = _get_global_client()
    return int(client.http_config.port)


def listening() -> list[str]:
    """The nodes with CPUs on which Serve listens: those that hold a part of an application, and the head."""
    from ray import serve

    able = {node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
    return sorted(node for node, status in serve.status().proxies.items() if status.value == "HEALTHY" and node in able)


def beside(roles: Collection[str]) -> dict[str, Any]:
    """Ray options of a worker that must reach the applications of these roles; none are needed without roles.

    Raises StageError where Serve listens nowhere for TIMEOUT_S.
    """
    if not roles:
        return {}
    deadline = time.monotonic() + TIMEOUT_S
    while not (nodes := listening()):
        if time.monotonic() > deadline:
            raise StageError(
                f"Ray Serve has listened on no node with CPUs for {TIMEOUT_S:g} s, so the "
                f"{' and '.join(sorted(roles))} cannot be asked: its log is serve/proxy_*.log in the logs of "
                "Ray's nodes; start the run again to go on"
            )
        time.sleep(0.5)
    return {"label_selector": {NODE_ID: f"in({','.join(nodes)})"}}


@contextmanager
def stopped_if_stranded() -> Iterator[None]:
    """Raise StageError in the main thread where all nodes on which a pipeline's workers may be (`beside`) are lost.

    Ray restarts such a worker on one of them alone, so the pipeline would wait until it is given up.
    """
    with watched(_stranded, CHECK_S, "proxies"):
        yield


def _stranded() -> StageError | None:
    # Loads Ray Data.
    from tapir_ray.cluster.pipeline_monitor import label_selectors

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    for selector in label_selectors():
        nodes = selector.get(NODE_ID, "").removeprefix("in(").removesuffix(")").split(",")
        if nodes != [""] and not alive.intersection(nodes):
            return StageError(
                "every node from which the local models were asked is lost; what is finished is kept, start the same "
                "command again to go on"
            )
    return None
