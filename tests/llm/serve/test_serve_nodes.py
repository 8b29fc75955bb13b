"""A served model over two nodes of a cluster whose head has no CPUs; one of the nodes is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import CreateModel
from tapir_ray.train.create_student import create_student

pytestmark = pytest.mark.restart

CREATE = CreateModel(hidden_size=64, intermediate_size=64, layers=1, heads=2, vocab_size=400, max_length=256)
DRIVER = """
import sys
import ray
from tapir_ray.config import Endpoint, Replicas
from tapir_ray.llm.serve import proxies
from tapir_ray.llm.serve import application as serve

address, model, processes = sys.argv[1:]
ray.init(address=address, logging_level="ERROR")
endpoint = Endpoint(engine="vllm", model=model, max_model_len=64,
                    engine_kwargs={"enforce_eager": True, "dtype": "float32"})
application = serve.start(endpoint, Replicas(cpus=2, replicas=2, min_replicas=2), "nodes-teacher", processes)

class Asker:
    def ask(self):
        body = {"model": model, "messages": [{"role": "user", "content": "two plus two?"}], "max_tokens": 4}
        for _ in range(4):
            serve._request(f"{application.url}/chat/completions", body, timeout_s=300)
        return ray.get_runtime_context().get_node_id()

for line in sys.stdin:
    nodes = set(proxies.listening())
    selectors = [{"label_selector": {"ray.io/node-id": f"in({node})"}} for node in nodes]
    selectors.append(proxies.worker_options(["teacher"]))
    askers = [ray.remote(Asker).options(num_cpus=0, **options).remote() for options in selectors]
    asked = [ray.get(asker.ask.remote()) for asker in askers]
    assert set(asked) == set(asked[:-1]) == nodes, (asked, nodes)
    print("asked from", *sorted(nodes), flush=True)
serve.stop(application)
print("stopped", flush=True)
"""


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two workers of two CPUs, each with room for one replica, and a head without CPUs."""
    from ray.cluster_utils import Cluster

    arguments = {"num_gpus": 0, "object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**arguments, "num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=2, **arguments)
    yield cluster
    cluster.shutdown()


@pytest.mark.timeout(900)
def test_requests_come_from_every_node_with_a_replica_and_survive_a_lost_one(tmp_path: Path, cluster: Any) -> None:
    folder = str(tmp_path / "m")
    create_student(CREATE, ["What is two plus two? Math or Art."] * 4, folder, None, 0)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, cluster.address, folder, str(tmp_path / "processes")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert driver.stdin is not None and driver.stdout is not None
    first, last = cluster.list_all_nodes()[1:]
    assert nodes_asked_from(driver) == {first.node_id, last.node_id}
    cluster.remove_node(last)
    assert nodes_asked_from(driver) == {first.node_id}
    driver.stdin.close()
    assert driver.stdout.read().endswith("stopped\n") and driver.wait() == 0


def nodes_asked_from(driver: Any) -> set[str]:
    """Returns the nodes whose workers have had answers, as soon as there are any."""
    driver.stdin.write("ask\n")
    driver.stdin.flush()
    for line in driver.stdout:  # vLLM prints lines of its own.
        if line.startswith("asked from "):
            return set(line.split()[2:])
    raise AssertionError(f"the driver ended with {driver.wait()}")
