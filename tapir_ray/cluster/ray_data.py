"""Block sizes of Ray Data pipelines, where a small machine must not wait for a whole CPU.

rows = small_blocks(rows, 32, transform_cpus=0.1)
rows = rows.map_batches(function, num_cpus=unfused(0.1))   # a stage of its own
"""

from __future__ import annotations

from typing import Any

import ray.data


def small_blocks(rows: ray.data.Dataset, rows_per_block: int, transform_cpus: float) -> ray.data.Dataset:
    """The rows in blocks of about `rows_per_block`, so that a costly stage streams and the next one starts early."""
    small: Any = rows.repartition(target_num_rows_per_block=rows_per_block)
    # Ray Data has no option for what a repartition claims; at its default of a whole CPU it hangs on a small machine.
    small._logical_plan.dag.ray_remote_args["num_cpus"] = transform_cpus
    return small


def unfused(transform_cpus: float) -> float:
    """CPUs that a stage claims which must not become one with the stage before it: Ray Data fuses those that claim
    the same."""
    return 0.9 * transform_cpus
