"""Counts the floating-point operations of a training, and measures the matrix rate of a device in FLOP/s.

rates = matrix_rates(torch.device("cuda"))                          # {"8192 x 8192 x 8192": FLOP/s, …}
needed = Needed.of(model); needed.flops(tokens, response_tokens, lengths)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

SHAPES = ((8192, 8192, 8192), (16384, 8192, 2048), (16384, 2048, 8192), (16384, 16384, 16384))
"""(m, n, k): squares, and shapes of the training (tokens by width)."""
SMALL_SHAPES = ((128, 128, 128), (256, 256, 256))
"""Shapes for CPUs."""
GROUPS, GROUP_S = 10, 0.1


@dataclass(frozen=True)
class Needed:
    """Model FLOPs of training a decoder (Chowdhery et al. 2022, PaLM, appendix B).

    Matrices: 6 per weight and token (2 forward, 4 backward). Attention: 12 · layers · heads · head size per pair of a
    token with one that it attends to. Only operations that the method needs are counted: a conversation of n tokens has
    n (n + 1) / 2 pairs, since attention is causal and stays within it, and the output layer processes only tokens in
    the loss. Not counted: norms, activations, the optimizer, recomputation by gradient checkpointing, and pairs that
    an attention kernel computes and masks.
    """

    layers: int
    """Weights of the linear layers, without the output layer."""
    output: int
    """Weights of the output layer."""
    a_pair: int
    """FLOPs of the attention for a pair of tokens."""

    @classmethod
    def of(cls, model: Any) -> Needed:
        """Counts the weights of a Llama-like model that is whole in memory."""
        config, head = model.config, model.get_output_embeddings()
        linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            layers=sum(module.weight.numel() for module in linear if module is not head),
            output=head.weight.numel(),
            a_pair=12 * config.num_hidden_layers * config.num_attention_heads * size,
        )

    def flops(self, tokens: int, response_tokens: int, lengths: Iterable[int]) -> float:
        """Returns the FLOPs of a forward and a backward pass over `tokens`, in conversations of `lengths`."""
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        return 6.0 * (self.layers * tokens + self.output * response_tokens) + float(self.a_pair) * pairs


def matrix_rates(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> dict[str, float]:
    """Returns FLOP/s of random matrix products by shape: the median of `GROUPS` groups of about `GROUP_S` seconds."""
    return {
        f"{m} x {n} x {k}": _rate(torch.randn(m, k, device=device, dtype=dtype),
                                  torch.randn(n, k, device=device, dtype=dtype))
        for m, n, k in (SHAPES if device.type == "cuda" else SMALL_SHAPES)
    }  # fmt: skip


def _rate(left_MK: torch.Tensor, right_NK: torch.Tensor) -> float:
    out_MN = left_MK @ right_NK.T

    def seconds(products: int) -> float:
        """Times this number of products, one after the other."""
        synchronize(left_MK.device)
        began = time.perf_counter()
        for _ in range(products):
            torch.mm(left_MK, right_NK.T, out=out_MN)
        synchronize(left_MK.device)
        return time.perf_counter() - began

    seconds(3)
    products = max(1, round(GROUP_S / (seconds(10) / 10)))
    return (
        2.0 * left_MK.numel() * len(right_NK) * products / statistics.median(seconds(products) for _ in range(GROUPS))
    )


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
