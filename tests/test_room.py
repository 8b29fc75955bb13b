"""What can never be placed is refused before anything starts; what cannot any more, after some patience."""

from __future__ import annotations

import time

import pytest

from tapir_ray import room as module
from tapir_ray.config import parse
from tapir_ray.errors import StageError
from tapir_ray.interrupt import interruptible
from tapir_ray.room import shortage

SMALL = {"name": "x", "seed_data": {"path": "a"}, "student": {"model": "m"}, "train": {"global_batch": 8}}


@pytest.mark.parametrize(
    ("resources", "key"),
    [
        ({"train": {"replicas": 4, "cpus": 2}}, "resources.train"),
        ({"student": {"cpus": 1, "tensor_parallel": 4}}, "resources.student"),
        ({"train": {"gpus": 1, "replicas": 2}}, "resources.train"),
        ({"student": {"gpus": 0.5, "replicas": 3}}, "resources.student"),
    ],
)
def test_too_much_is_refused(resources: dict, key: str) -> None:
    assert key in (shortage(parse({**SMALL, "resources": resources}), [{"CPU": 4, "GPU": 1}]) or "")


def test_a_local_teacher_holds_its_gpu_beside_the_others() -> None:
    local = {**SMALL, "teacher": {"engine": "vllm", "model": "t"}, "resources": {"teacher": {"gpus": 1}}}
    assert shortage(parse(local), [{"CPU": 8, "GPU": 1}]) is None
    both = parse({**local, "resources": {**local["resources"], "train": {"gpus": 1}}})
    assert "resources.train asks for 1 GPUs beside 1 for teacher" in (shortage(both, [{"CPU": 8, "GPU": 1}]) or "")
    many = parse({**local, "resources": {"teacher": {"gpus": 8}}})
    assert "resources.teacher" in (shortage(many, [{"CPU": 8, "GPU": 1}]) or "")


def test_what_fits_passes() -> None:
    resources = {"train": {"replicas": 2, "cpus": 2}, "student": {"cpus": 3, "gpus": 1}}
    assert shortage(parse({**SMALL, "resources": resources}), [{"CPU": 4, "GPU": 1}]) is None


def test_a_student_behind_an_endpoint_needs_no_engine() -> None:
    student = {"model": "m", "engine": "openai", "endpoint": {"base_url": "http://127.0.0.1:1/v1"}}
    config = parse({**SMALL, "student": student, "resources": {"student": {"cpus": 64}}})
    assert shortage(config, [{"CPU": 4, "GPU": 0}]) is None


def test_a_regeneration_needs_neither_student_nor_training() -> None:
    resources = {"student": {"gpus": 8}, "train": {"cpus": 64}, "classifier": {"gpus": 2}}
    regenerate = {"name": "x", "seed_data": {"path": "a"}, "resources": resources}
    filtered = parse({**regenerate, "regenerate": {"operations": ["filter"]}})
    assert shortage(filtered, [{"CPU": 1, "GPU": 0}]) is None
    labels = {"by": "deberta", "model": "m"}
    labelled = parse({**regenerate, "classify": labels, "regenerate": {"operations": ["classify"]}})
    assert "resources.classifier asks for 2 GPUs" in (shortage(labelled, [{"CPU": 4, "GPU": 1}]) or "")


def test_too_little_for_too_long_stops_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the patience, not at once: a node that comes back in time is as good as the lost one."""
    have = {"CPU": 4.0, "GPU": 0.0}
    monkeypatch.setattr(module, "room", lambda: [dict(have)])
    monkeypatch.setattr(module, "CHECK_S", 0.05)
    config = parse({**SMALL, "resources": {"train": {"cpus": 3}, "lost_node_patience_s": 0.5}})
    with interruptible(), module.stopped_by_lost_nodes(config):
        have["CPU"] = 1.0
        time.sleep(0.3)
        have["CPU"] = 4.0
        time.sleep(0.6)
    began = time.monotonic()
    lost = pytest.raises(StageError, match=r"nodes were lost: resources.train needs .* CPUs")
    with lost, interruptible(), module.stopped_by_lost_nodes(config):
        have["CPU"] = 1.0
        time.sleep(30)
    assert 0.5 < time.monotonic() - began < 10


def test_a_worker_must_fit_on_one_node() -> None:
    config = parse({**SMALL, "resources": {"train": {"cpus": 4}, "student": {"gpus": 2}, "stage_cpus": 0.1}})
    assert "resources.train needs 1 workers of 4 CPUs" in (shortage(config, [{"CPU": 2, "GPU": 1}] * 2) or "")
    assert "resources.student needs 1 workers of 1 CPUs and 2 GPUs" in (
        shortage(config, [{"CPU": 4, "GPU": 1}] * 2) or ""
    )
    assert shortage(config, [{"CPU": 4, "GPU": 0}, {"CPU": 2, "GPU": 2}]) is None
