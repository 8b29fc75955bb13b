"""Nodes that an autoscaler may add, read from the configuration of `ray up`, of its process or of KubeRay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tapir_ray.cluster.autoscaler import Group, groups_of, of_kubernetes, of_process
from tests.runs import ROOT

CONFIG = {
    "max_workers": 4,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 2},
        "cpu": {"resources": {"CPU": 16}},
    },
}


def test_the_head_is_no_group_and_groups_are_capped_by_the_cluster() -> None:
    assert groups_of(CONFIG) == [Group("gpu", 2, {"CPU": 8, "GPU": 1}), Group("cpu", 4, {"CPU": 16})]
    assert [group.most for group in groups_of({**CONFIG, "max_workers": 1})] == [1, 1]


def assert_accelerator_type(found: list[Group]) -> None:
    """Asserts that each group names its accelerator type: Ray adds no node for a claim on a type that a group does
    not name."""
    gpus = [group for group in found if group.most and group.resources.get("GPU")]
    assert gpus and all(group.resources.get("accelerator_type:L4") == 1 for group in gpus)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_shipped_clusters_may_add_gpus(name: str) -> None:
    found = groups_of(yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text()))
    assert_accelerator_type(found)


def test_groups_of_kuberay_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_CLUSTER_NAME", raising=False)
    assert of_kubernetes() is None
    (cluster,) = [
        content
        for content in yaml.safe_load_all((ROOT / "cluster/kuberay/raycluster.yaml").read_text())
        if content["kind"] == "RayCluster"
    ]
    cluster["metadata"]["namespace"] = "default"
    found = groups_of(_derive_autoscaling_config_from_ray_cr(cluster))
    assert len(found) == len(cluster["spec"]["workerGroupSpecs"])
    assert_accelerator_type(found)


def test_the_process_of_this_cluster_is_found(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    words = ["--gcs-address=10.0.0.1:4242", f"--autoscaling-config={file}"]
    process = subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE)
    try:
        assert of_process("10.0.0.1:4242") == CONFIG
        assert of_process("10.0.0.1:424") is None
    finally:
        process.communicate(b"\n")
