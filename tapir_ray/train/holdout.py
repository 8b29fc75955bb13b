"""Evaluates the loss of the student during training, on the holdout or on given batches.

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
    """Returns (cross-entropy over the response tokens in nats, their number) by pair id, the same on every rank.

    A collective call: each rank takes every world-th sequence, and all ranks do the same number of forward passes.
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
            # Positions restart at 0 with each pair of a packed sequence.
            pair_T = np.cumsum(row["position_ids"] == 0) - 1
            # A padded row is longer than its sequence.
            sums = np.bincount(pair_T, losses_T[: len(pair_T)].double().cpu().numpy())
            tokens = np.bincount(pair_T, row["labels"] != IGNORED)
            own |= zip(reader.pair_ids([index]), zip(sums.tolist(), map(int, tokens), strict=True), strict=True)
    engine.train()
    everyone: list[dict[str, tuple[float, int]]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everyone, own)
    return {name: found for part in everyone for name, found in part.items()}


def mean_of(pairs: Mapping[str, tuple[float, int]]) -> float:
    """Returns the mean cross-entropy over the response tokens of all pairs, in nats per token."""
    return sum(loss for loss, _ in pairs.values()) / max(1, sum(tokens for _, tokens in pairs.values()))


def _parts(reader: PackedReader, train: Train) -> Iterator[range]:
    """Yields the indices of the sequences for each forward pass of this rank: every world-th sequence.

    All ranks get the same number of passes; the last indices may be beyond the end.
    """
    from torch import distributed

    rank, world = distributed.get_rank(), distributed.get_world_size()
    together = world * micro_batch_size(train, world)
    for first in range(rank, math.ceil(reader.sequences / together) * together, together):
        yield range(first, first + together, world)


def mean_loss(engine: Any, device: Any, parts: Iterable[Sequence[Packed]], train: Train) -> float:
    """Returns the mean cross-entropy over the response tokens of all ranks' batches, in nats per token.

    It is the same on every rank. A collective call: each rank passes its own batches, all ranks the same number.
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
