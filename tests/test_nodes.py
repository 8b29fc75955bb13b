"""A cluster of two nodes that loses one: the run ends with the same rows, or reports in time that it cannot."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tapir_ray.simulator import Options, running, write_seed
from tests.runs import AGENTS, IN_FLIGHT, TABLES, Driver, title, write_config

pytestmark = pytest.mark.restart


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head with two CPUs; each node is a set of processes on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 256 * 2**20},
    )
    yield cluster
    cluster.shutdown()


CONTROL = {
    # Of this package, by class and by name: the curriculum's state, the usage, and a training's reports.
    "Curriculum", "curriculum", "UsageActor", "usage", "Mailbox",
    # Of Ray, for each pipeline and training. slice_fn and _get_arrow_schema_from_block read the columns of a dataset
    # (from one row, without a claim of CPUs); IDLE is a worker without work.
    "_StatsActor", "_StatsSummaryActor", "_UsageCollectionActor", "ActorLocationTracker", "AutoscalingRequester",
    "_AutoscalingCoordinatorActor", "AutoscalingCoordinator", "TrainController", "TrainStateActor",
    "SynchronizationActor", "DatasetManager", "datasets_stats_actor", "slice_fn", "_get_arrow_schema_from_block",
    "IDLE",
}  # fmt: skip
"""Processes allowed on a head without CPUs: they claim none, and hold counts but no table."""


@pytest.fixture
def head_without_cpus() -> Iterator[Any]:
    """A cluster with one worker of four CPUs, and a head without CPUs."""
    from ray.cluster_utils import Cluster

    arguments = {"num_gpus": 0, "include_dashboard": False, "object_store_memory": 256 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**arguments, "num_cpus": 0})
    cluster.add_node(num_cpus=4, num_gpus=0, object_store_memory=256 * 2**20)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[str]:
    """A teacher, judge and student that every node reaches."""
    with running(Options(scenario="tasks", seed=0, latency_s=0.2, log=str(tmp_path / "log.jsonl"))) as url:
        yield url


def driver(folder: Path, cluster: Any, url: str, **sections: Any) -> Driver:
    endpoint = {"base_url": f"{url.removesuffix('/v1')}/v1", "api_key_env": None, "limits": {"in_flight": IN_FLIGHT}}
    student = {"engine": "openai", "endpoint": {**endpoint, "model": "simulated-student"}}
    teacher = {**endpoint, "model": "simulated-teacher", "sampling": {"max_tokens": 256}}
    seed = folder / "seed.jsonl"
    config = write_config(folder, student, simulator=None, seed_data={"path": str(seed)}, teacher=teacher, **sections)
    write_seed(str(seed), 400, 0)
    return Driver(config, folder / "run", RAY_ADDRESS=cluster.address)


def workers_of(node: Any) -> list[str]:
    """Returns the process titles of a node of the cluster."""
    raylet = node.all_processes["raylet"][0].process.pid
    return [title(child) for child in psutil.Process(raylet).children(recursive=True)]


@pytest.mark.timeout(1200)
def test_a_lost_node_costs_no_row(tmp_path: Path, cluster: Any, simulator: str) -> None:
    resources = {"transform_cpus": 0.4, "rows_per_block": 16, "request_workers": 4, "train": {"cpus": 1}}
    alone = driver(tmp_path / "alone", cluster, simulator, resources=resources)
    second = cluster.add_node(num_cpus=2)
    alone.finish()

    lossy = driver(tmp_path / "lossy", cluster, simulator, resources=resources)
    process = lossy.start()
    for table in ("rounds/01/scored", "rounds/01/generated"):
        assert lossy.wait_for(table, process), lossy.printed()
        deadline = time.monotonic() + 60
        while not any("Asker" in worker for worker in workers_of(second)) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)
        assert any("Asker" in worker for worker in workers_of(second)), "the node took no part"
        cluster.remove_node(second, allow_graceful=False)
        second = cluster.add_node(num_cpus=2)
    assert process.wait(500) == 0, lossy.printed()
    for table in TABLES:
        assert lossy.keys(table) == alone.keys(table), table


@pytest.mark.timeout(900)
def test_a_lasting_shortage_is_reported_within_two_minutes(tmp_path: Path, cluster: Any, simulator: str) -> None:
    resources = {"transform_cpus": 0.1, "rows_per_block": 16, "train": {"cpus": 2, "replicas": 2}}
    second = cluster.add_node(num_cpus=2)
    short = driver(tmp_path, cluster, simulator, resources=resources)
    process = short.start()
    assert short.wait_for("rounds/01/scored", process), short.printed()
    cluster.remove_node(second, allow_graceful=False)
    assert process.wait(120) == 1, short.printed()
    assert "nodes were lost: resources.train needs 4 CPUs" in short.printed()
    cluster.add_node(num_cpus=2)
    short.finish()
    short.check_keys()


@pytest.mark.timeout(900)
def test_a_head_without_cpus_does_no_work(tmp_path: Path, head_without_cpus: Any, simulator: str) -> None:
    """The run is started on the head, as a job's driver is. Tasks, stages and training are on the worker.

    The run's own actors are on the driver's node, which stays: elsewhere they would keep an idle node alive.
    """
    run = driver(tmp_path, head_without_cpus, simulator, resources={"transform_cpus": 0.4, "train": {"cpus": 1}})
    process, on_head = run.start(), set()
    while process.poll() is None:
        titles = workers_of(head_without_cpus.head_node)
        on_head |= {
            re.split(r"[.(:-]", title.removeprefix("ray::"))[0] for title in titles if title.startswith("ray::")
        }
        time.sleep(0.05)
    assert process.returncode == 0, run.printed()
    run.check_keys()
    print(f"on the head: {sorted(on_head)}")
    assert on_head & {"Curriculum", "curriculum"} and on_head & {"UsageActor", "usage"} and "Mailbox" in on_head
    assert on_head <= CONTROL | {agent.removeprefix("ray::") for agent in AGENTS}
