"""Claims that can never be placed are refused at once; those that no longer fit are refused after a patience."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tapir_ray.cluster import capacity as module
from tapir_ray.cluster.autoscaler import Group
from tapir_ray.cluster.capacity import fits_with_servers, shortage
from tapir_ray.cluster.interrupt import interruptible
from tapir_ray.config import parse
from tapir_ray.errors import StageError

SMALL = {"name": "x", "seed_data": {"path": "a"}, "student": {"model": "m"}, "train": {"global_batch_size": 8}}
H100 = {"CPU": 16, "GPU": 1, "accelerator_type:H100": 1}


@pytest.mark.parametrize(
    ("resources", "key"),
    [
        ({"train": {"replicas": 4, "cpus": 2}}, "resources.train"),
        ({"student": {"cpus": 1, "tensor_parallel": 4}}, "resources.student"),
        ({"train": {"gpus": 1, "replicas": 2}}, "resources.train"),
        ({"student": {"gpus": 0.5, "replicas": 3}}, "resources.student"),
    ],
)
def test_claims_beyond_the_cluster_are_refused(resources: dict, key: str) -> None:
    assert key in (shortage(parse({**SMALL, "resources": resources}), [{"CPU": 4, "GPU": 1}]) or "")


def test_a_local_teacher_stops_for_student_and_training_alone() -> None:
    local = {**SMALL, "teacher": {"engine": "vllm", "model": "t"}, "resources": {"teacher": {"gpus": 1}}}
    one, two = [{"CPU": 8, "GPU": 1}], [{"CPU": 8, "GPU": 2}]
    assert shortage(parse(local), one) is None
    both = parse({**local, "resources": {**local["resources"], "train": {"gpus": 1}, "student": {"gpus": 1}}})
    assert shortage(both, one) is None and shortage(both, two) is None
    for name in ("train", "student"):
        assert not fits_with_servers(both, name, one) and fits_with_servers(both, name, two)
    judge = parse({**local, "judge": {"engine": "vllm", "model": "j"}, "resources": {"judge": {"gpus": 1}}})
    assert fits_with_servers(judge, "train", one)
    two_models = judge.model_copy(
        update={"resources": both.resources.model_copy(update={"judge": both.resources.train})}
    )
    assert "resources.teacher asks for 1 GPUs next to 1 for judge" in (shortage(two_models, one) or "")
    labels = parse(
        {**local, "classify": {"model": "m"}, "resources": {"teacher": {"gpus": 1}, "classifier": {"gpus": 1}}}
    )
    assert "resources.classifier asks for 1 GPUs next to 1 for teacher" in (shortage(labels, one) or "")
    # A regeneration labels its rows before it asks the teacher.
    regenerate = {"regenerate": {"operations": ["classify", "answer"]}, "seed_data": {"path": "s", "responses": "fill"}}
    assert shortage(parse({**labels.model_dump(exclude_unset=True), **regenerate}), one) is None
    many = parse({**local, "resources": {"teacher": {"gpus": 8}}})
    assert "resources.teacher" in (shortage(many, [{"CPU": 8, "GPU": 1}]) or "")


@pytest.mark.parametrize(
    ("node", "sections", "key"),
    [
        ({"CPU": 4, "GPU": 1}, {"train": {"gpus": 1}}, "resources.train asks for 1 GPUs next to 1 for student"),
        ({"CPU": 4, "GPU": 2}, {"train": {"gpus": 1}}, None),
        ({"CPU": 2, "GPU": 2}, {"train": {"gpus": 1, "replicas": 2}}, "resources.train"),
        ({"CPU": 4, "GPU": 1}, {"teacher": {"gpus": 1}}, "resources.student asks for 1 GPUs next to 1 for teacher"),
        ({"CPU": 4, "GPU": 1}, {"classifier": {"gpus": 1}}, "resources.classifier asks for 1 GPUs next to 1"),
        # A teacher is stopped for training, a kept engine is not.
        ({"CPU": 4, "GPU": 2}, {"teacher": {"gpus": 1}, "train": {"gpus": 1}}, None),
    ],
)
def test_a_kept_engine_needs_room_next_to_all_others(node: dict, sections: dict[str, Any], key: str | None) -> None:
    kept = {"student": {"gpus": 1, "keep": True}}
    content = {**SMALL, "resources": {**sections, **kept}, "classify": {"model": "m"}}
    if "teacher" in sections:
        content["teacher"] = {"engine": "vllm", "model": "t"}
    short = shortage(parse(content), [node])
    if key is None:
        assert short is None
    else:
        assert key in (short or "") and "set resources.student.keep=false" in (short or "")
    content["resources"] = {**sections, "student": {"gpus": 1}}
    assert shortage(parse(content), [node]) is None


def test_a_local_teacher_begins_with_the_fewest_replicas_and_may_grow() -> None:
    """The teacher fits if its fewest replicas do.

    Later claims can rely only on the rest that its most replicas leave.
    """
    teacher = {"gpus": 1, "replicas": 3, "min_replicas": 2}
    config = parse(
        {
            **SMALL,
            "teacher": {"engine": "vllm", "model": "t"},
            "resources": {"teacher": teacher, "train": {"gpus": 1}},
        }
    )
    assert "resources.teacher asks for 2 GPUs" in (shortage(config, [{"CPU": 8, "GPU": 1}]) or "")
    assert shortage(config, [{"CPU": 8, "GPU": 2}]) is None
    assert not fits_with_servers(config, "train", [{"CPU": 8, "GPU": 3}])
    assert fits_with_servers(config, "train", [{"CPU": 8, "GPU": 4}])


def test_claims_that_fit_are_accepted() -> None:
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
    assert "the stages need 0.6 CPUs but the cluster has 0" in (shortage(filtered, [{"CPU": 0, "GPU": 0}]) or "")
    labels = {"by": "deberta", "model": "m"}
    labelled = parse({**regenerate, "classify": labels, "regenerate": {"operations": ["classify"]}})
    assert "resources.classifier asks for 2 GPUs" in (shortage(labelled, [{"CPU": 4, "GPU": 1}]) or "")


def test_a_lasting_shortage_stops_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops after the patience, not at once: a replacement node may still come in time."""
    have = {"CPU": 4.0, "GPU": 0.0}
    monkeypatch.setattr(module, "possible_nodes", lambda: [dict(have)])
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
    config = parse({**SMALL, "resources": {"train": {"cpus": 4}, "student": {"gpus": 2}, "transform_cpus": 0.1}})
    assert "resources.train needs 1 workers of 4 CPUs" in (shortage(config, [{"CPU": 2, "GPU": 1}] * 2) or "")
    assert "resources.student needs 1 workers of 1 CPUs and 2 GPUs" in (
        shortage(config, [{"CPU": 4, "GPU": 1}] * 2) or ""
    )
    assert shortage(config, [{"CPU": 4, "GPU": 0}, {"CPU": 2, "GPU": 2}]) is None


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"gpus": 1, "tensor_parallel": 4}, "needs 1 workers of 4 CPUs and 4 GPUs, each on one node, and the nodes"),
        ({"gpus": 1, "accelerator_type": "H100"}, r"accelerator_type is H100.* set it to one of theirs \(L4, T4\)"),
        ({"gpus": 2, "accelerator_type": "T4"}, "needs 1 workers of 1 CPUs and 2 GPUs of type T4"),
        (
            {"gpus": 1, "replicas": 4, "min_replicas": 4},
            r"asks for 4 GPUs .* lower resources.student.gpus.*min_replicas",
        ),
        ({"gpus": 1, "tensor_parallel": 2}, None),
        ({"gpus": 1, "replicas": 4, "min_replicas": 1}, None),
        ({"gpus": 1, "accelerator_type": "T4"}, None),
    ],
)
def test_an_engine_needs_all_gpus_of_its_accelerator_type_on_one_node(student: dict, words: str | None) -> None:
    nodes = [{"CPU": 8, "GPU": 2, "accelerator_type:L4": 1}, {"CPU": 8, "GPU": 1, "accelerator_type:T4": 1}]
    if student.get("tensor_parallel") == 4:
        nodes = nodes[:1] * 2
    short = shortage(parse({**SMALL, "resources": {"student": student}}), nodes)
    assert short is None if words is None else re.search(words, short or "")


def test_a_node_gives_the_accelerator_type_of_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    resources = {"CPU": 4.0, "GPU": 1.0, "memory": 1e9, "accelerator_type:L4": 1.0, "node:__internal_head__": 1.0}
    group = Group("h", 3, {"CPU": 16, "GPU": 8, "accelerator_type:H100": 1})
    one = {"Alive": True, "Resources": dict(group.resources), "Labels": {"ray.io/node-group": "h"}}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": resources}, {"Alive": False}, one])
    monkeypatch.setattr(module, "groups", lambda: [group])
    added = {"CPU": 16.0, "GPU": 8.0, "accelerator_type:H100": 1.0}
    assert module.possible_nodes() == [{"CPU": 4.0, "GPU": 1.0, "accelerator_type:L4": 1.0}, added, added, added]
    assert module.live_nodes() == module.possible_nodes()[:2]


def test_an_accelerator_type_held_by_the_local_teacher_is_not_free() -> None:
    """GPUs have types and nodes, so a sum over the cluster does not tell whether an engine fits."""
    kind, nodes = {"gpus": 1, "accelerator_type": "H100"}, [dict(H100), {"CPU": 16, "GPU": 1, "accelerator_type:L4": 1}]
    local = {**SMALL, "teacher": {"engine": "vllm", "model": "t"}, "judge": {"same_as": "teacher"}}
    config = parse({**local, "resources": {"teacher": kind, "train": kind, "student": kind}})
    assert shortage(config, nodes) is None
    assert not fits_with_servers(config, "train", nodes) and not fits_with_servers(config, "student", nodes)
    assert fits_with_servers(config, "train", [*nodes, dict(H100)])
    any_kind = parse({**local, "resources": {"teacher": {"gpus": 1}, "train": kind}})
    assert shortage(any_kind, nodes) is None
    assert not fits_with_servers(any_kind, "train", nodes), "the teacher may take the H100"

    both = {**local, "judge": {"engine": "vllm", "model": "j"}, "resources": {"teacher": kind, "judge": kind}}
    short = shortage(parse(both), nodes) or ""
    assert "resources.teacher needs 1 workers of 1 CPUs and 1 GPUs of type H100" in short
    assert "room for 0 next to judge" in short
    assert shortage(parse(both), [*nodes, dict(H100)]) is None
    either = parse({**both, "resources": {"teacher": kind, "judge": {"gpus": 1}}})
    assert shortage(either, nodes) is None, "the judge takes the L4"


def test_gpus_left_by_the_teacher_count_by_node_and_not_in_sum() -> None:
    nodes = [{"CPU": 64, "GPU": 4}] * 2
    local = {**SMALL, "teacher": {"engine": "vllm", "model": "t"}, "judge": {"same_as": "teacher"}}
    wide = {"gpus": 1, "tensor_parallel": 3, "replicas": 2}
    config = parse({**local, "resources": {"teacher": wide, "student": {"gpus": 1, "tensor_parallel": 2}}})
    assert not fits_with_servers(config, "student", nodes), "two are left, on different nodes"
    config = parse(
        {**local, "resources": {"teacher": wide, "student": {"gpus": 1}, "train": {"gpus": 1, "replicas": 2}}}
    )
    assert fits_with_servers(config, "student", nodes) and fits_with_servers(config, "train", nodes)


@pytest.mark.parametrize(
    ("gpus", "engines", "ranks", "stays"),
    [((4, 4), 6, 2, False), ((4, 4), 5, 2, True), ((2, 4), 4, 2, False), ((8,), 6, 2, True), ((4, 4), 2, 4, False)],
)
def test_the_worst_placement_of_the_teacher_decides(
    gpus: tuple[int, ...], engines: int, ranks: int, stays: bool
) -> None:
    """6 engines on two nodes of 4 GPUs may split 3 and 3, which leaves no two free GPUs on either node."""
    local = {**SMALL, "teacher": {"engine": "vllm", "model": "t"}, "judge": {"same_as": "teacher"}}
    resources = {"teacher": {"gpus": 1, "replicas": engines}, "student": {"gpus": 1, "tensor_parallel": ranks}}
    config = parse({**local, "resources": resources})
    assert fits_with_servers(config, "student", [{"CPU": 32, "GPU": count} for count in gpus]) is stays


@pytest.mark.parametrize(
    ("nodes", "teacher", "judge"),
    [
        ([(9, 4), (17, 2)], {"cpus": 8, "gpus": 1, "replicas": 2}, {"cpus": 2, "gpus": 1, "replicas": 4}),
        ([(16, 8), (32, 1)], {"cpus": 16, "gpus": 1}, {"cpus": 2, "gpus": 0.5, "replicas": 4}),
    ],
)
def test_a_config_with_a_single_fitting_placement_is_accepted(
    nodes: list[tuple[int, int]], teacher: dict[str, Any], judge: dict[str, Any]
) -> None:
    models = {"teacher": {"engine": "vllm", "model": "t"}, "judge": {"engine": "vllm", "model": "j"}}
    config = parse({**SMALL, **models, "resources": {"teacher": teacher, "judge": judge, "transform_cpus": 0.1}})
    assert shortage(config, [{"CPU": cpus, "GPU": gpus} for cpus, gpus in nodes]) is None


def test_placements_of_hundreds_of_engines_are_not_enumerated() -> None:
    models = {"teacher": {"engine": "vllm", "model": "t"}, "judge": {"engine": "vllm", "model": "j"}}
    many = {"gpus": 1, "replicas": 200}
    config = parse({**SMALL, **models, "resources": {"teacher": many, "judge": many, "train": {"gpus": 8}}})
    nodes = [{"CPU": 64, "GPU": 8}] * 1000
    assert shortage(config, nodes) is None and fits_with_servers(config, "train", nodes)
