"""Placement groups left behind by engines of several GPUs; actors stand in for the engines."""

from __future__ import annotations

import subprocess
import sys
import time

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tapir_ray.llm.engine.placement_groups import left_overs_removed, own_groups

OTHER_JOB = """
import sys, time
import ray
from ray.util.placement_group import placement_group
ray.init(address=sys.argv[1], log_to_driver=False)
group = placement_group([{"CPU": 0.5}])
assert group.wait(30)
print(group.id.hex(), flush=True)
sys.stdin.read()
"""


class Engine:
    """A stand-in with two ranks: it makes its group as vLLM does, inside the worker or given by the driver."""

    def make(self) -> str:
        """Returns the id, in hex, of a group made by this worker."""
        self.group = placement_group([{"CPU": 0.5}] * 2)
        assert self.group.wait(30)
        return self.group.id.hex()

    def ready(self) -> None:
        """Returns once the actor runs."""


def held(cpus: float) -> PlacementGroup:
    """Returns a group whose actor claims all of it."""
    group = placement_group([{"CPU": cpus / 2}] * 2)
    inside = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    actor = ray.remote(Engine).options(num_cpus=cpus / 2, scheduling_strategy=inside).remote()
    ray.get(actor.ready.remote())
    return group


def wait_for_cpus(cpus: float) -> bool:
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0.0) < cpus and time.monotonic() < deadline:
        time.sleep(0.1)
    return ray.available_resources().get("CPU", 0.0) >= cpus


def test_groups_left_by_engines_are_removed_and_others_stay(ray_local: None) -> None:
    everything = ray.cluster_resources()["CPU"]
    assert wait_for_cpus(everything)
    mine = placement_group([{"CPU": 0.5}])
    assert mine.wait(30)
    address = ray.get_runtime_context().gcs_address
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER_JOB, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None and other.stdout is not None
    try:
        with left_overs_removed():
            theirs = other.stdout.readline().strip()
            group = held(1.5)
            maker = ray.remote(Engine).options(num_cpus=0).remote()
            served = placement_group([{"CPU": 0.5}], lifetime="detached")
            assert served.wait(30)
            assert {group.id.hex(), mine.id.hex(), ray.get(maker.make.remote())} == own_groups()
            assert theirs and theirs not in own_groups()
        assert own_groups() == {mine.id.hex()}
        assert wait_for_cpus(everything - 1.5), "the actors in the groups have died, and their claims are free"
        assert ray.util.placement_group_table()[served.id.hex()]["state"] == "CREATED"
        assert ray.util.placement_group_table()[theirs]["state"] == "CREATED"
    finally:
        other.communicate("")
        remove_placement_group(mine)
        remove_placement_group(served)
