"""Block sizes and fusion of Ray Data pipelines on small machines, which lack a whole CPU for each operator.

rows = small_blocks(rows, 32, transform_cpus=0.1)
rows = rows.map_batches(function, num_cpus=unfused(0.1))   # not fused with the operator before it
"""

from __future__ import annotations

from typing import Any

import ray.data


def small_blocks(rows: ray.data.Dataset, rows_per_block: int, transform_cpus: float) -> ray.data.Dataset:
    """The rows in blocks of about `rows_per_block` rows, so that slow operators stream and the next start early."""
    small: Any = rows.repartition(target_num_rows_per_block=rows_per_block)
    # Ray Data has no option for what a repartition claims; at its default of a whole CPU it hangs on a small machine.
    small._logical_plan.dag.ray_remote_args["num_cpus"] = transform_cpus
    return small


def unfused(transform_cpus: float) -> float:
    """CPUs to claim for an operator that must not be fused with the one before it: `unfused(0.1)` is 0.09."""
    # Ray Data fuses only operators with equal claims.
    return 0.9 * transform_cpus
