"""The student's own loss while it is trained, on the holdout or on batches at hand, without a step.

pairs = pair_losses(engine, device, PackedReader(holdout_dir, fs), train)     # of each pair of the holdout
loss = mean_of(pairs)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tapir_ray.config import Train
from tapir_ray.train.batches import Packed, PackedReader, collate, in_one_row, micro_batch_size
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.loss import response_loss, token_losses


def pair_losses(engine: Any, device: Any, reader: PackedReader, train: Train) -> dict[str, tuple[float, int]]:
    """Of each pair the sum of the cross-entropy over its response tokens (nats) and their number, the same on every
    rank.

    A collective call: each rank takes every world-th sequence, and as many forward passes as the others.
    """
    from torch import distributed

    one_row = in_one_row(train)
    own: dict[str, tuple[float, int]] = {}
    engine.eval()
    for indices in _parts(reader, train):
        rows = reader.take(indices)
        losses_BT = token_losses(engine, {name: t.to(device) for name, t in collate(rows, one_row).items()})
        by_row = losses_BT[0].split([len(row["labels"]) for row in rows]) if one_row else losses_BT
        there = (index for index in indices if index < reader.sequences)
        for index, row, losses_T in zip(there, rows, by_row, strict=False):
            pair_T = np.cumsum(row["position_ids"] == 0) - 1
            sums = np.bincount(pair_T, losses_T[: len(pair_T)].double().cpu().numpy())
            tokens = np.bincount(pair_T, row["labels"] != IGNORED)
            own |= zip(reader.pair_ids([index]), zip(sums.tolist(), map(int, tokens), strict=True), strict=True)
    engine.train()
    everyone: list[dict[str, tuple[float, int]]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everyone, own)
    return {name: found for part in everyone for name, found in part.items()}


def mean_of(pairs: Mapping[str, tuple[float, int]]) -> float:
    """Mean cross-entropy over the response tokens of all pairs (nats a token)."""
    return sum(loss for loss, _ in pairs.values()) / max(1, sum(tokens for _, tokens in pairs.values()))


def _parts(reader: PackedReader, train: Train) -> Iterator[range]:
    """Which sequences each forward pass of this rank takes: every world-th, and as many passes as the others."""
    from torch import distributed

    rank, world = distributed.get_rank(), distributed.get_world_size()
    together = world * micro_batch_size(train, world)
    for first in range(rank, math.ceil(reader.sequences / together) * together, together):
        yield range(first, first + together, world)


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
            batch = {name: t.to(device) for name, t in collate(rows, in_one_row(train)).items()}
            sums[0] += response_loss(engine, batch)
            sums[1] += (batch["labels"] != IGNORED).sum()
    engine.train()
    distributed.all_reduce(sums)
    return (sums[0] / sums[1].clamp(min=1)).item()
