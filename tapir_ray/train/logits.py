"""Measures how a model changes its logits after the output layer: by a scale (Cohere), a soft cap (Gemma-2), or none.

    change = measured_change(model, head, batch)    # None: neither a scale nor a cap
    with called_as(head, forward): model(**inputs)

Configs are no reliable source: a key multiplies in one family and divides in another (`logits_scaling` in HyperCLOVA X
and Granite), or has no effect (`final_logit_softcapping` in a multimodal Gemma-3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

TINY, HUGE, WIDEST = 2.0**-20, 2.0**20, 100.0
"""Probe logits: one so small that a cap has no effect, one far beyond any cap, and the range of the others."""
TOKENS = 8
"""Tokens of a batch for the probe pass, which needs only the end of the model."""


@dataclass(frozen=True)
class Change:
    """`cap * tanh(scale * logits / cap)`; without a cap `scale * logits`."""

    scale: float = 1.0
    cap: float | None = None

    def of_(self, logits: torch.Tensor) -> torch.Tensor:
        """Changes the logits in place and returns them."""
        if self.cap is not None:
            return logits.mul_(self.scale / self.cap).tanh_().mul_(self.cap)
        return logits if self.scale == 1.0 else logits.mul_(self.scale)

    def slope_of(self, changed: torch.Tensor) -> torch.Tensor | None:
        """Returns the factor of the gradient of each changed logit; None if all have the factor `scale`.

        d/dx cap · tanh(scale · x / cap) = scale · (1 − (changed / cap)²).
        """
        if self.cap is None:
            return None
        return (changed / self.cap).square_().neg_().add_(1.0).mul_(self.scale)


def measured_change(model: Any, head: torch.nn.Linear, inputs: dict[str, Any]) -> Change | None:
    """Returns the change between the output of `head` and the logits of `model`. A collective call without gradients.

    It is None if `Change` cannot express it, such as a bias on single tokens or a truncated vocabulary.
    """
    asked = torch.linspace(-WIDEST, WIDEST, head.out_features, device=inputs["input_ids"].device)
    asked[0], asked[-1] = TINY, HUGE
    few = {name: given[:1, :TOKENS] if torch.is_tensor(given) else given for name, given in inputs.items()}
    inner = getattr(model, "module", model)
    training = inner.training
    inner.eval()  # dropout would consume random numbers of the step
    with torch.no_grad(), called_as(head, lambda hidden: asked.clone()[None, None]):
        found = model(**few).logits
    inner.train(training)
    if found.shape != (1, 1, len(asked)):
        return None
    scale, end = found[0, 0, 0].item() / TINY, found[0, 0, -1].item()
    cap = None if abs(end - scale * HUGE) < 1e-3 * abs(end) else abs(end)
    change = Change(scale, cap)
    same = scale != 0.0 and cap != 0.0 and torch.allclose(change.of_(asked), found[0, 0].float(), rtol=1e-5, atol=1e-6)
    return change if same else None


@contextmanager
def called_as(head: torch.nn.Linear, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Context manager: calls of `head` run `forward` instead of its own, with the same hooks around."""
    head.forward = forward  # type: ignore[assignment]
    try:
        yield
    finally:
        del head.forward
