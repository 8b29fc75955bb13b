"""Placement groups that engines leave behind, which would hold their GPUs until the driver ends (ray#64035).

with left_overs_removed():
    ...                    # a pipeline with engines of `tensor_parallel` 2 or more: each makes a group of its own
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group


@contextmanager
def left_overs_removed() -> Iterator[None]:
    """Remove, at the end, the placement groups of this job that were made inside; whatever still runs in them dies.

    After an error they stay: the driver ends by it, and they with the driver.
    Nothing else of this driver may make groups meanwhile, such as a training in another thread.
    """
    before = own_groups()
    yield
    for group in own_groups() - before:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))


def own_groups() -> set[str]:
    """Ids, in hex, of the placement groups that this job has made and not removed, by its driver or by its workers.

    Detached ones are not among them: of such are the replicas of Ray Serve.
    """
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
