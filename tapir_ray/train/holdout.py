"""The student's own loss while it is trained, on the holdout or on batches at hand, without a step.

before = holdout_loss(engine, device, PackedReader(holdout_dir, fs), train)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tapir_ray.config import Train
from tapir_ray.train.batches import Packed, PackedReader, collate, micro_batch_size
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.loss import response_loss


def holdout_loss(engine: Any, device: Any, reader: PackedReader, train: Train) -> float:
    """Mean cross-entropy over the response tokens of all sequences (nats a token), the same on every rank.

    A collective call: each rank takes every world-th sequence, and as many forward passes as the others.
    """
    from torch import distributed

    rank, world = distributed.get_rank(), distributed.get_world_size()
    micro = micro_batch_size(train, world)
    together = world * micro
    parts = (
        reader.take(range(first, first + together, world))
        for first in range(rank, math.ceil(reader.sequences / together) * together, together)
    )
    return mean_loss(engine, device, parts, train)


def mean_loss(engine: Any, device: Any, parts: Iterable[Sequence[Packed]], train: Train) -> float:
    """Mean cross-entropy over the response tokens of all ranks' batches (nats a token), the same on every rank.

    A collective call: each rank comes with its own batches, as many as the others.
    """
    import torch
    from torch import distributed

    sums = torch.zeros(2, dtype=torch.float64, device=device)
    engine.eval()
    with torch.no_grad():
        for rows in parts:
            batch = {name: t.to(device) for name, t in collate(rows, train.attention == "flash_attention_2").items()}
            sums[0] += response_loss(engine, batch)
            sums[1] += (batch["labels"] != IGNORED).sum()
    engine.train()
    distributed.all_reduce(sums)
    return (sums[0] / sums[1].clamp(min=1)).item()
