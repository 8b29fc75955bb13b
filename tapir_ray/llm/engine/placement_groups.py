"""Removes the placement groups that engines leave behind, which hold their GPUs until the driver ends (ray#64035).

with left_overs_removed():
    ...                    # a pipeline with engines of `tensor_parallel` 2 or more: each creates a group
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group


@contextmanager
def left_overs_removed() -> Iterator[None]:
    """Context manager that removes, on exit, the placement groups that this job has created in it.

    Actors and tasks in these groups are killed. After an error the groups stay, because the driver ends and Ray removes
    them with it. Nothing else in the driver may create groups meanwhile, such as a training in another thread.
    """
    before = own_groups()
    yield
    for group in own_groups() - before:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))


def own_groups() -> set[str]:
    """Returns the ids, in hex, of this job's placement groups, created by its driver or its workers and not removed.

    Detached groups are left out, since the replicas of Ray Serve use them.
    """
    # Private, because `ray.util.placement_group_table` does not give the job that created a group.
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]

    job = ray.get_runtime_context().get_job_id()
    found = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    return {
        group.placement_group_id.hex()
        for group in found
        if group.state != PlacementGroupTableData.REMOVED
        and group.creator_job_id.hex() == job
        and not group.is_detached
    }
