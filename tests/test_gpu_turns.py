"""One GPU that the student's engine, a local judge and training claim in turn.

Ray is told of a GPU, and no machine needs one: the engines compute on CPUs, training uses the gloo backend.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import CreateModel
from tapir_ray.simulator import Options, running, write_seed
from tapir_ray.train.create_student import create_student
from tests.runs import ENDPOINT, Driver, write_config
from tests.test_nodes import workers_of

pytestmark = pytest.mark.restart

KINDS = {"judge": "ServeReplica", "engine": "vLLMEngineStage", "training": "RayTrainWorker"}
"""Claimants of the GPU, each by a part of its process title."""
SCORES = [f"Scores: {teacher} {student}" for teacher, student in ((9, 4), (8, 5), (7, 6), (6, 6))]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head with four CPUs and a GPU that exists only for Ray."""
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 4, "num_gpus": 1, "include_dashboard": False, "object_store_memory": 256 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    yield cluster
    cluster.shutdown()


def judge(folder: str) -> dict[str, Any]:
    """Returns the section of an untrained judge whose engine allows nothing but scores."""
    create = CreateModel(hidden_size=64, intermediate_size=64, layers=1, heads=2, vocab_size=600, max_length=4096)
    create_student(create, [*SCORES, "Rate each answer from 1 to 10 by its accuracy."] * 4, folder, None, 0)
    return {
        "engine": "vllm",
        "model": folder,
        "sampling": {"temperature": 1.0, "max_tokens": 32},
        "engine_kwargs": {"enforce_eager": True, "dtype": "float32"},
        "extra_body": {"structured_outputs": {"choice": SCORES}},
        "both_orders": False,
        "repeat_share": 0.0,
    }


@pytest.mark.timeout(1200)
def test_one_gpu_changes_hands_through_two_rounds(tmp_path: Path, cluster: Any) -> None:
    claim = {"cpus": 1, "gpus": 1}
    with running(Options(scenario="tasks", seed=0)) as url:
        seed = tmp_path / "seed.jsonl"
        config = write_config(
            tmp_path,
            {"engine_kwargs": {"enforce_eager": True}, "sampling": {"max_tokens": 32}},
            simulator=None,
            seed_data={"path": str(seed)},
            teacher={**ENDPOINT, "base_url": f"{url.removesuffix('/v1')}/v1", "model": "simulated-teacher"},
            judge=judge(str(tmp_path / "judge")),
            curriculum={"rounds": 2, "alpha": 0.5, "tasks": "seed", "difficulty": {"top_fraction": 0.5}},
            score={"max_rows": 80},
            expand={"size": 40},
            resources={"transform_cpus": 0.2, "rows_per_block": 16, "student": claim, "judge": claim, "train": claim},
        )
        write_seed(str(seed), 400, 0)
        driver = Driver(config, tmp_path / "run", RAY_ADDRESS=cluster.address)
        process, turns, deadline = driver.start(), [""], time.monotonic() + 900
        while process.poll() is None and time.monotonic() < deadline:
            titles = workers_of(cluster.head_node)
            there = [kind for kind, part in KINDS.items() if any(part in title for title in titles)]
            if len(there) == 1 and there[0] != turns[-1]:
                turns += there
            time.sleep(0.3)
        print(f"who had the GPU: {turns[1:]}")
        assert process.poll() == 0, driver.printed()
    assert turns[1:] == [*["judge", "training", "engine"] * 3, "judge"]
    for table in ("rounds/01/scored", "rounds/02/scored", "evaluation/holdout"):
        manifest = driver.run.read_json(f"{table}/_manifest.json")
        assert manifest["statuses"] == {"ok": manifest["rows"]} and manifest["rows"] >= 40, table
    assert driver.run.exists("checkpoints/02/_manifest.json")
    assert not driver.files("rounds/01/scored-answered"), "the intermediate table is deleted once it is not needed"
