"""Computes attention of packed conversations by torch's nested tensors, whose kernel skips masked blocks.

    model = AutoModelForCausalLM.from_config(config, attn_implementation="nested")    # after the import of this module
    NestedAttention.install(model)

Works for batches of one row ([1, tokens]) whose positions restart with each conversation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv


class NestedAttention:
    """Starts of the conversations in the current batch, computed once per forward pass and used in every layer."""

    offsets_C: torch.Tensor
    shortest = longest = 0

    @classmethod
    def install(cls, model: Any) -> None:
        """Makes every forward pass of `model` read its positions first."""
        model.register_forward_pre_hook(cls._look, with_kwargs=True)

    @classmethod
    def _look(cls, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        position_ids = kwargs["position_ids"]
        if len(position_ids) != 1:
            raise ValueError(f"nested attention takes batches of one row, not of {len(position_ids)}")
        starts = (position_ids[0] == 0).nonzero().squeeze(1)
        cls.offsets_C = functional.pad(starts, (0, 1), value=position_ids.shape[1])
        lengths = cls.offsets_C.diff()
        cls.shortest, cls.longest = int(lengths.min()), int(lengths.max())


def nested_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Computes attention as transformers calls it: [1, heads, tokens, size] in, [1, tokens, heads, size] out."""

    def nested(whole_1HTD: torch.Tensor) -> torch.Tensor:
        values_THD = whole_1HTD[0].transpose(0, 1).contiguous()
        conversations = torch.nested.nested_tensor_from_jagged(
            values_THD,
            NestedAttention.offsets_C,
            min_seqlen=NestedAttention.shortest,
            max_seqlen=NestedAttention.longest,
        )
        return conversations.transpose(1, 2)

    def attended(*inputs: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(*inputs, is_causal=True, dropout_p=dropout, scale=scaling)

    key, value = (repeat_kv(whole, module.num_key_value_groups) for whole in (key, value))
    if query.device.type == "cuda":
        return attended(nested(query), nested(key), nested(value)).transpose(1, 2).values()[None], None
    # On other devices torch has no causal kernel for nested tensors: compute one conversation after the other.
    lengths = NestedAttention.offsets_C.diff().tolist()
    parts = zip(*(whole.split(lengths, dim=2) for whole in (query, key, value)), strict=True)
    return torch.cat([attended(*part) for part in parts], dim=2).transpose(1, 2), None


AttentionInterface.register("nested", nested_attention)
