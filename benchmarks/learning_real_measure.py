"""Difficulty measure of the real half of the learning benchmark: the student's loss on the row's own response."""

from __future__ import annotations

import pyarrow as pa

from tapir_ray.curriculum.measures import Column, measure


@measure(losses=True)
def response_loss(rows: pa.Table) -> Column:
    """Returns the mean cross-entropy of each row's response, given its conversation, in nats per token."""
    return rows["response_loss"]
