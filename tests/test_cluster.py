"""What can never be placed is refused before anything starts, with the key to change."""

from __future__ import annotations

import pytest

from tapir_ray.cluster import check_resources
from tapir_ray.config import parse
from tapir_ray.errors import InputError

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
    with pytest.raises(InputError, match=key):
        check_resources(parse({**SMALL, "resources": resources}), {"CPU": 4, "GPU": 1})


def test_a_local_teacher_holds_its_gpu_beside_the_others() -> None:
    local = {**SMALL, "teacher": {"engine": "vllm", "model": "t"}, "resources": {"teacher": {"gpus": 1}}}
    check_resources(parse(local), {"CPU": 8, "GPU": 1})
    with pytest.raises(InputError, match=r"resources.train asks for 1 GPUs beside 1 for teacher"):
        check_resources(
            parse({**local, "resources": {**local["resources"], "train": {"gpus": 1}}}), {"CPU": 8, "GPU": 1}
        )
    with pytest.raises(InputError, match=r"resources.teacher"):
        check_resources(parse({**local, "resources": {"teacher": {"gpus": 8}}}), {"CPU": 8, "GPU": 1})


def test_what_fits_passes() -> None:
    resources = {"train": {"replicas": 2, "cpus": 2}, "student": {"cpus": 3, "gpus": 1}}
    check_resources(parse({**SMALL, "resources": resources}), {"CPU": 4, "GPU": 1})


def test_a_student_behind_an_endpoint_needs_no_engine() -> None:
    student = {"model": "m", "engine": "openai", "endpoint": {"base_url": "http://127.0.0.1:1/v1"}}
    config = parse({**SMALL, "student": student, "resources": {"student": {"cpus": 64}}})
    check_resources(config, {"CPU": 4})
