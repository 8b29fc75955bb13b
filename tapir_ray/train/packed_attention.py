"""Computes the attention of packed conversations on CPUs separately, because a mask would hide most of the results.

    attend_apart(model)     # changes all later forward passes with torch's sdpa

The mask of the model applies unchanged, with its windows. Only blocks between two conversations are not computed, which
the mask hides in every model that packing is used for. On GPUs the many small kernels would cost more than they save;
there FlashAttention (`train.attention flash_attention_2`) does the same.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_CONVERSATIONS = "tapir_conversations"
"""Attribute of each module of a model with its Conversations."""


class Conversations:
    """Lengths of the conversations in each row of the current batch of a model.

    They are found once per forward pass and used in every layer, also by a checkpointed layer that the backward pass
    computes again.
    """

    lengths_B: list[list[int]]
    """Tokens of each conversation (the last of a row may be padding), by row."""

    def __init__(self) -> None:
        self.lengths_B = []

    def look(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook: reads the lengths from the `position_ids` of a call of `model`."""
        positions_BT = kwargs.get("position_ids")
        rows = [] if positions_BT is None or positions_BT.dim() != 2 else positions_BT
        self.lengths_B = [_lengths(row) for row in rows]

    def cover(self, query_BHTD: torch.Tensor, key_BHTD: torch.Tensor, mask: torch.Tensor | None) -> bool:
        """Returns whether an attention covers these whole rows under a mask, and a row has several conversations."""
        batch, _, length, _ = query_BHTD.shape
        return (
            any(len(lengths) > 1 for lengths in self.lengths_B)
            and (batch, length) == (len(self.lengths_B), sum(self.lengths_B[0]))
            and key_BHTD.shape[2] == length
            and mask is not None
            and mask.dim() == 4
            and mask.shape[2:] == (length, length)
        )


def attend_apart(model: Any) -> None:
    """Makes `model` compute attention for each packed conversation separately. Affects only `sdpa` attention."""
    AttentionInterface.register("sdpa", _attention)
    conversations = Conversations()
    # transformers passes the attention module, not the model, to the attention function.
    for module in model.modules():
        setattr(module, _CONVERSATIONS, conversations)
    model.register_forward_pre_hook(conversations.look, with_kwargs=True)


def _lengths(positions_T: torch.Tensor) -> list[int]:
    """Lengths of the conversations of a row: positions 0 1 2 0 1 give [3, 2]."""
    starts = (positions_T.diff() != 1).nonzero().squeeze(1) + 1
    return torch.tensor([0, *starts.tolist(), len(positions_T)]).diff().tolist()


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the interface of transformers: [batch, heads, tokens, size] in, [batch, tokens, heads, size] out."""
    settings |= {"dropout": dropout, "scaling": scaling}
    conversations: Conversations | None = getattr(module, _CONVERSATIONS, None)
    if conversations is None or position_bias is not None or not conversations.cover(query, key, attention_mask):
        settings["position_bias"] = position_bias
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    assert attention_mask is not None
    # `split` has one backward for all its parts; each slice would allocate a gradient of the full size.
    rows = (whole.split(1) for whole in (query, key, value, attention_mask.expand(len(query), -1, -1, -1)))
    found = []
    for lengths, *row, mask in zip(conversations.lengths_B, *rows, strict=True):
        parts = (whole.split(lengths, dim=2) for whole in row)
        for end, q, k, v in zip(accumulate(lengths), *parts, strict=True):
            begin = end - q.shape[2]
            attended, _ = sdpa_attention_forward(module, q, k, v, mask[..., begin:end, begin:end], **settings)
            found.append(attended)
    return torch.cat(found, dim=1).view(len(query), -1, *found[0].shape[2:]), None
