"""KubeRay's manifests: valid by its custom resource definitions, and consistent with the names in them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tapir_ray.cluster.capacity import shortage
from tapir_ray.config import load
from tests.deploy.files import (
    CLUSTER,
    IMAGE,
    PROJECT,
    Path_,
    changed,
    closed,
    documents,
    keys,
    misspelt,
    pin,
    without,
)

MANIFESTS = {"RayCluster": "kuberay/raycluster.yaml", "RayJob": "kuberay/rayjob.yaml"}
FREE = {"nodeSelector", "requests", "limits", "rayStartParams"}
"""Maps with free keys, in which no key is wrong for Kubernetes."""
TEMPLATE = ("template", "spec", "containers", 0)


@cache
def _crd(path: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(), loader)


@cache
def _validator(folder: Path, kind: str) -> Draft202012Validator:
    """Returns a validator of one kind's stored version; outside the schema only metadata with a name is allowed."""
    crd = _crd(folder / "kuberay" / f"ray.io_{kind.lower()}s.yaml")
    (version,) = [version for version in crd["spec"]["versions"] if version["storage"]]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["apiVersion"] = {"const": f"{crd['spec']['group']}/{version['name']}"}
    schema["properties"]["kind"] = {"const": crd["spec"]["names"]["kind"]}
    schema["properties"]["metadata"] = _metadata()
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return Draft202012Validator(schema)


def _metadata() -> dict[str, Any]:
    name = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}
    return {"properties": {"name": name}, "required": ["name"], "type": "object", "additionalProperties": False}


def manifest(kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents(MANIFESTS[kind]) if document["kind"] == kind]
    return found


def cluster_of(kind: str) -> tuple[dict[str, Any], Path_]:
    """Returns the Ray cluster of a manifest and its path in it."""
    path: Path_ = ("spec",) if kind == "RayCluster" else ("spec", "rayClusterSpec")
    found: Any = manifest(kind)
    for step in path:
        found = found[step]
    return found, path


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the pod specs of the head and of each worker group."""
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("kind", MANIFESTS)
def test_the_manifest_is_valid_by_the_schema(kind: str, data_folder: Path) -> None:
    assert [error.message for error in _validator(data_folder, kind).iter_errors(manifest(kind))] == []


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_misspelt_key_is_found(kind: str, data_folder: Path) -> None:
    document, validator = manifest(kind), _validator(data_folder, kind)
    # One path of each place in the schema: all items of a list have the same one.
    places = {tuple(step for step in path if isinstance(step, str)): path for path in keys(document)}
    paths = [path for place, path in places.items() if not FREE & set(place[:-1])]
    assert len(paths) > 60
    assert [path for path in paths if validator.is_valid(misspelt(document, path))] == []


@pytest.mark.parametrize("kind", MANIFESTS)
def test_wrong_types_and_missing_fields_are_found(kind: str, data_folder: Path) -> None:
    document, (_, base) = manifest(kind), cluster_of(kind)
    group = (*base, "workerGroupSpecs", 0)
    wrong = [
        changed(document, (*base, "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        changed(document, (*base, "enableInTreeAutoscaling"), "yes"),
        changed(document, (*base, "authOptions", "mode"), "tokens"),
        changed(document, (*base, "autoscalerOptions", "idleTimeoutSeconds"), "600s"),
        changed(document, (*base, "autoscalerOptions", "version"), "v3"),
        changed(document, (*group, "maxReplicas"), "4"),
        changed(document, (*group, *TEMPLATE, "env", 0, "value"), 1),
        changed(document, (*group, "template", "spec", "nodeSelector", "cloud.google.com/gke-spot"), True),
        without(document, (*base, "headGroupSpec")),
        without(document, (*base, "headGroupSpec", "template")),
        without(document, (*group, "groupName")),
        without(document, (*group, *TEMPLATE, "name")),
        without(document, ("metadata", "name")),
    ]
    if kind == "RayJob":
        wrong += [changed(document, ("spec", "backoffLimit"), "5"), changed(document, ("spec", "entrypoint"), ["a"])]
    missed = [i for i, document in enumerate(wrong) if _validator(data_folder, kind).is_valid(document)]
    assert missed == []


def test_the_claim_of_the_shared_storage_is_valid(data_folder: Path) -> None:
    """The CRD contains the schema of a claim too, since pods may bring one."""
    schema: Any = _validator(data_folder, "RayCluster").schema
    for step in ("spec", "headGroupSpec", "template", "spec", "volumes"):
        schema = schema["properties"][step]
    schema = schema["items"]["properties"]["ephemeral"]["properties"]["volumeClaimTemplate"]["properties"]["spec"]
    (claim,) = documents("kuberay/storage.yaml")
    assert (claim["apiVersion"], claim["kind"], set(claim)) == (
        "v1",
        "PersistentVolumeClaim",
        {"apiVersion", "kind", "metadata", "spec"},
    )
    validator = Draft202012Validator(schema)
    assert validator.is_valid(claim["spec"])
    for path in keys(claim["spec"]):
        assert "requests" in path[:-1] or not validator.is_valid(misspelt(claim["spec"], path))
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_objects_named_by_the_pods_are_defined() -> None:
    """Pods would wait forever for a volume, claim, ConfigMap or Secret that does not exist."""
    defined = {
        (document["kind"], document["metadata"]["name"])
        for name in ("kuberay/storage.yaml", *MANIFESTS.values())
        for document in documents(name)
    }
    documented = (CLUSTER.parent / "docs/kubernetes.md").read_text()
    for kind in MANIFESTS:
        for pod in pods(cluster_of(kind)[0]):
            volumes = {volume["name"] for volume in pod["volumes"]}
            (container,) = pod["containers"]
            assert volumes == {mount["name"] for mount in container["volumeMounts"]}
            for volume in pod["volumes"]:
                if "persistentVolumeClaim" in volume:
                    assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in defined
                if "configMap" in volume:
                    assert ("ConfigMap", volume["configMap"]["name"]) in defined
            assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["tapir-keys"]
    assert "kubectl create secret generic tapir-keys" in documented


def test_keys_come_only_from_the_secret() -> None:
    for kind in MANIFESTS:
        for pod in pods(cluster_of(kind)[0]):
            names = {entry["name"] for entry in pod["containers"][0]["env"]}
            assert names <= {"HF_HOME", "TAPIR_MODELS", "RAY_JOB_STOP_WAIT_TIME_S"}


def test_both_manifests_describe_the_same_cluster() -> None:
    """They differ only in the run's config, which a job brings."""
    cluster, job = cluster_of("RayCluster")[0], cluster_of("RayJob")[0]
    for pod in pods(job):
        pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "config"]
        mounts = pod["containers"][0]["volumeMounts"]
        pod["containers"][0]["volumeMounts"] = [mount for mount in mounts if mount["name"] != "config"]
    assert job == cluster


def test_an_idle_cluster_has_only_its_head() -> None:
    spec, _ = cluster_of("RayCluster")
    assert spec["enableInTreeAutoscaling"] is True and spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    for group in spec["workerGroupSpecs"]:
        assert (group["replicas"], group["minReplicas"]) == (0, 0) and group["maxReplicas"] > 0
    # The autoscaler of version 2 requires this: it would take a restarted pod for its former node.
    assert {pod["restartPolicy"] for pod in pods(spec)} == {"Never"}


def test_rays_autoscaler_reads_the_groups_of_the_manifest() -> None:
    """Ray's own function derives the autoscaler's config from the manifest."""
    cluster = manifest("RayCluster")
    cluster["metadata"]["namespace"] = "default"
    derived = _derive_autoscaling_config_from_ray_cr(cluster)
    kinds = derived["available_node_types"]
    head = kinds.pop(derived["head_node_type"])
    assert (head["resources"]["CPU"], head["resources"]["GPU"], head["max_workers"]) == (0, 0, 0)
    sizes = {name: (kind["resources"]["CPU"], kind["resources"].get("GPU", 0)) for name, kind in kinds.items()}
    assert sizes == {"gpu-spot": (7, 1), "gpu-on-demand": (7, 1), "cpu": (7, 0)}
    assert {name: kind["min_workers"] for name, kind in kinds.items()} == dict.fromkeys(sizes, 0)
    assert kinds["gpu-spot"]["priority"] == 10
    assert derived["idle_timeout_minutes"] == 10


def test_spot_is_the_first_choice_among_equal_gpu_nodes() -> None:
    spec, _ = cluster_of("RayCluster")
    spot, on_demand, cpu = spec["workerGroupSpecs"]
    assert spot["priority"] > on_demand.get("priority", 0)
    sizes = [group["template"]["spec"]["containers"][0]["resources"] for group in (spot, on_demand, cpu)]
    assert sizes[0] == sizes[1]
    assert "nvidia.com/gpu" in sizes[0]["limits"] and "nvidia.com/gpu" not in sizes[2]["limits"]
    # Ray and Kubernetes must agree on the resources of a pod.
    assert all(size["requests"] == size["limits"] for size in sizes)


def test_the_config_of_the_job_is_valid_and_fits_the_cluster(tmp_path: Path) -> None:
    (given,) = [document for document in documents("kuberay/rayjob.yaml") if document["kind"] == "ConfigMap"]
    assert (given["apiVersion"], set(given)) == ("v1", {"apiVersion", "kind", "metadata", "data"})
    ((name, text),) = given["data"].items()
    assert manifest("RayJob")["spec"]["entrypoint"].split()[:3] == ["tapir-job", "run", f"/etc/tapir/{name}"]
    (tmp_path / name).write_text(text)
    config = load(str(tmp_path / name))
    assert config.budget.max_cost is not None
    waits = cluster_of("RayJob")[0]["autoscalerOptions"]["env"][0]
    # A stage must not be given up while pods wait for spot nodes that are not available.
    assert config.resources.no_progress_timeout_s > 2 * int(waits["value"])
    nodes = []
    for group in cluster_of("RayJob")[0]["workerGroupSpecs"][1:]:  # As if no spot node were available.
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        node = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        nodes += [node] * group["maxReplicas"]
    assert shortage(config, nodes) is None
    assert shortage(config, nodes[1:]) is not None


def test_runs_and_seed_data_are_on_the_shared_storage() -> None:
    job = manifest("RayJob")["spec"]
    shared = {
        mount["mountPath"]
        for pod in pods(job["rayClusterSpec"])
        for mount in pod["containers"][0]["volumeMounts"]
        if mount["name"] == "shared"
    }
    assert shared == {"/shared"}
    words = job["entrypoint"].split()
    assert words[words.index("--run-dir") + 1].startswith("/shared/")
    assert job["backoffLimit"] > 0 and job["shutdownAfterJobFinishes"] is True


def test_the_images_are_of_the_projects_versions() -> None:
    for kind in MANIFESTS:
        spec, _ = cluster_of(kind)
        assert spec["rayVersion"] == pin("ray")
        for pod in pods(spec):
            image = IMAGE.fullmatch(pod["containers"][0]["image"])
            assert image is not None
            assert (image["project"], image["ray"]) == (PROJECT["version"], pin("ray"))
