"""Local models of a run: which are up, and when they free their resources."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from tapir_ray.cluster import capacity
from tapir_ray.cluster.autoscaler import Group
from tapir_ray.cluster.capacity import kept_student
from tapir_ray.config import parse
from tapir_ray.errors import InputError
from tapir_ray.llm.engine.engines import Engines
from tapir_ray.llm.serve import application


@pytest.mark.parametrize(("up", "ended"), [(1, ["teacher"]), (2, [])])
def test_training_does_not_count_on_a_node_that_may_never_be_added(
    monkeypatch: pytest.MonkeyPatch, up: int, ended: list[str]
) -> None:
    """The autoscaler could add three nodes. Until it has, training takes the teacher's GPU and does not wait."""
    node: dict[str, Any] = {"CPU": 8.0, "GPU": 1.0}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node}] * up)
    monkeypatch.setattr(capacity, "groups", lambda: [Group("gpu", 3, node)])
    stopped: list[str] = []
    monkeypatch.setattr(application, "start", lambda endpoint, *others: endpoint.model)
    monkeypatch.setattr(application, "stop", stopped.append)
    config = parse(
        {
            "name": "x",
            "seed_data": {"path": "a"},
            "student": {"model": "m"},
            "teacher": {"engine": "vllm", "model": "teacher"},
            "resources": {"teacher": {"gpus": 1}, "train": {"gpus": 1}},
        }
    )
    engines = Engines(config, "run")
    engines.start()
    engines.free_resources_for("train")
    assert stopped == ended


def test_kept_engines_are_for_a_student_that_is_loaded_and_on_one_gpu() -> None:
    kept = {
        "name": "x",
        "seed_data": {"path": "a"},
        "student": {"model": "m"},
        "resources": {"student": {"keep": True}},
    }
    assert kept_student(parse(kept)) and not kept_student(parse({**kept, "resources": {}}))
    with pytest.raises(InputError, match=r"resources.student.*keep needs tensor_parallel 1"):
        parse({**kept, "resources": {"student": {"keep": True, "tensor_parallel": 2}}})
    with pytest.raises(InputError, match="min_replicas has no effect with keep"):
        parse({**kept, "resources": {"student": {"keep": True, "replicas": 2, "min_replicas": 1}}})
