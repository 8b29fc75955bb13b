"""Measures with the student itself whether it keeps the conversations of a packed sequence apart.

    check_kept_apart(engine, device, reader, one_row=False, model="Qwen/…")

In a packed sequence only `position_ids` mark the start of a conversation. A model that does not pass them to its
attention, or that carries a state from token to token (linear attention, convolutions), sees the previous conversation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapir_ray.errors import StageError
from tapir_ray.train.batches import PackedReader, collate
from tapir_ray.train.chat import IGNORED

LENGTH = 32
"""Tokens of each of the two conversations of the check."""
LIMIT, NOISE = 0.02, 4.0
"""Largest accepted change of the logits: 2 % of their spread, or 4 times the change by rounding."""


def check_kept_apart(engine: Any, device: Any, reader: PackedReader, one_row: bool, model: str) -> None:
    """Raises StageError if the logits of a conversation depend on the one before it in its sequence.

    A collective call. The first tokens of the first sequence, split in two, go through the model alone and in both
    orders. `model` is the name for the error.
    """
    ids = reader.take(range(1))[0]["input_ids"][: 2 * LENGTH]
    if len(ids) < 2:
        return
    difference, noise = influence(engine, device, ids[: len(ids) // 2], ids[len(ids) // 2 :], one_row)
    if difference > max(LIMIT, NOISE * noise):
        raise StageError(
            f"{model} does not keep packed conversations apart: the logits of one change by {difference:.0%} with "
            "another before it; set train.packing false, which gives each pair a sequence of its own, and start with "
            "another --run-dir and --fork of this run, which keeps the cached replies"
        )


def influence(engine: Any, device: Any, before: np.ndarray, tokens: np.ndarray, one_row: bool) -> tuple[float, float]:
    """(mean change of the logits of `tokens` with `before` packed before them, the same with `before` after them).

    Both are shares of the spread of the logits at a position. Later tokens have no effect in a causal model, so the
    second change is rounding.
    """
    import torch

    engine.eval()
    with torch.no_grad():
        alone = _logits(engine, device, [tokens], one_row)
        after = _logits(engine, device, [before, tokens], one_row)[len(before) :]
        ahead = _logits(engine, device, [tokens, before], one_row)[: len(tokens)]
    engine.train()
    spread = (alone - alone.mean(dim=-1, keepdim=True)).norm(dim=-1)
    shares = [((other - alone).norm(dim=-1) / spread).mean().item() for other in (after, ahead)]
    return shares[0], shares[1]


def _logits(engine: Any, device: Any, conversations: list[np.ndarray], one_row: bool) -> Any:
    """Logits of one packed sequence, float32 of shape (tokens, vocabulary)."""
    ids = np.concatenate(conversations)
    row = {
        "input_ids": ids,
        "labels": np.full(len(ids), IGNORED),
        "position_ids": np.concatenate([np.arange(len(tokens)) for tokens in conversations]),
    }
    batch = {name: tensor.to(device) for name, tensor in collate([row], one_row).items()}
    del batch["labels"]
    return engine(**batch, use_cache=False).logits[0].float()
