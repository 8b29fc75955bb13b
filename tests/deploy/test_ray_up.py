"""Files of `ray up`, prepared and validated by Ray's own functions as before a call to a cloud."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import ray.autoscaler
from click import ClickException
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.deploy.files import IMAGE, PROJECT, Path_, changed, documents, keys, misspelt, pin, without

CLOUDS = ["aws.yaml", "gcp.yaml"]
FILES = [*CLOUDS, "local.yaml"]
FREE = {"provider", "node_config", "file_mounts", "resources"}
"""Ray's schema takes any key in these. Those of the provider and of AWS's nodes are checked below; for Google's nodes
there is nothing here to check them against."""


def validate(config: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(config)))


def is_governed(path: Path_) -> bool:
    """Returns whether Ray's schema governs the key: it is not a provider's own and not the name of a node type."""
    return not FREE & set(path[:-1]) and path[:-1] != ("available_node_types",)


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name: str) -> None:
    (config,) = documents(name)
    validate(config)


@pytest.mark.parametrize("name", FILES)
def test_a_misspelt_key_is_found(name: str) -> None:
    (config,) = documents(name)
    paths = [path for path in keys(config) if is_governed(path)]
    assert len(paths) > 10
    for path in paths:
        # Ray looks up some keys by name before it validates, and reports those with another error.
        with pytest.raises((ValidationError, ValueError, KeyError, AssertionError, ClickException)):
            validate(misspelt(config, path))


@pytest.mark.parametrize("name", FILES)
def test_keys_of_the_provider_are_named_by_rays_schema(name: str) -> None:
    """The schema accepts other keys too, but they have no effect."""
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    (config,) = documents(name)
    assert set(config["provider"]) <= set(schema["properties"]["provider"]["properties"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("idle_timeout_minutes",), "10"),
        (("max_workers",), -1),
        (("docker", "run_options"), "--ulimit nofile=65536:65536"),
        (("head_start_ray_commands",), "ray start --head"),
        (("auth", "ssh_user"), 1000),
    ],
)
@pytest.mark.parametrize("name", FILES)
def test_a_value_of_the_wrong_type_is_found(name: str, path: Path_, value: object) -> None:
    (config,) = documents(name)
    with pytest.raises(ValidationError):
        validate(changed(config, path, value))


@pytest.mark.parametrize("name", CLOUDS)
def test_wrong_node_types_are_found(name: str) -> None:
    (config,) = documents(name)
    group = ("available_node_types", "gpu_spot")
    for wrong in (
        without(config, (*group, "resources")),
        without(config, (*group, "node_config")),
        changed(config, (*group, "min_workers"), "0"),
        changed(config, (*group, "resources"), {"CPU": "8", "GPU": 1}),
        changed(config, (*group, "priority"), "high"),
    ):
        with pytest.raises(ValidationError):
            validate(wrong)
    with pytest.raises(ValueError, match="head_node_type"):
        validate(changed(config, ("head_node_type",), "heads"))
    with pytest.raises(ValueError, match="max_workers"):
        validate(changed(config, (*group, "min_workers"), 99))


@pytest.mark.parametrize("address", ["head_ip", "worker_ips"])
def test_own_machines_without_an_address_are_found(address: str) -> None:
    (config,) = documents("local.yaml")
    with pytest.raises(ClickException):
        validate(without(config, ("provider", address)))


def test_the_nodes_of_aws_are_valid_requests_to_ec2() -> None:
    """Ray passes `node_config` unchanged to RunInstances, so a typo would first show when a node is started."""
    session = pytest.importorskip("botocore.session")
    from botocore.validate import ParamValidator

    request = session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    (config,) = documents("aws.yaml")
    nodes = {name: kind["node_config"] for name, kind in config["available_node_types"].items()}

    def errors(node: dict[str, Any]) -> bool:
        return ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node}, request).has_errors()

    assert not any(errors(node) for node in nodes.values())
    for name, node in nodes.items():
        for path in keys(node):
            assert errors(misspelt(node, path)), (name, path)


@pytest.mark.parametrize("name", CLOUDS)
def test_an_idle_cluster_pays_only_for_its_head(name: str) -> None:
    (config,) = documents(name)
    kinds = dict(config["available_node_types"])
    head = kinds.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0} and "min_workers" not in head
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in kinds.values())
    # The limits of the groups must fit within the limit of the cluster.
    assert sum(kind["max_workers"] for kind in kinds.values()) <= config["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 15
    prepared = prepare_config(copy.deepcopy(config))
    assert prepared["available_node_types"]["head"]["max_workers"] == 0


@pytest.mark.parametrize(
    ("name", "spot"),
    [
        ("aws.yaml", lambda node: node.get("InstanceMarketOptions") == {"MarketType": "spot"}),
        ("gcp.yaml", lambda node: node.get("scheduling", {}).get("provisioningModel") == "SPOT"),
    ],
)
def test_spot_is_the_first_choice_among_equal_gpu_nodes(name: str, spot: Any) -> None:
    (config,) = documents(name)
    kinds = config["available_node_types"]
    assert kinds["gpu_spot"]["resources"] == kinds["gpu_on_demand"]["resources"]
    assert kinds["gpu_spot"]["priority"] > kinds["gpu_on_demand"].get("priority", 0)
    assert [kind for kind, node in kinds.items() if spot(node["node_config"])] == ["gpu_spot"]


@pytest.mark.parametrize("name", FILES)
def test_all_nodes_have_the_token_and_the_head_takes_no_work(name: str) -> None:
    (config,) = documents(name)
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    (head,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    (worker,) = [line for line in config["worker_start_ray_commands"] if "ray start" in line]
    for line in (head, worker):
        assert "export RAY_AUTH_MODE=token" in line.partition("ray start")[0]
    assert "--num-cpus=0 --num-gpus=0" in head and "--num-cpus" not in worker


@pytest.mark.parametrize("name", FILES)
def test_the_image_is_of_the_projects_versions(name: str) -> None:
    (config,) = documents(name)
    image = IMAGE.fullmatch(config["docker"]["image"])
    assert image is not None
    assert (image["project"], image["ray"]) == (PROJECT["version"], pin("ray"))
