"""What a model does to its logits after the output layer: a scale (Cohere, Granite), a soft cap (Gemma-2), or nothing.

    change = measured_change(model, head, batch)    # None: something that is neither
    with called_as(head, forward): model(**inputs)

It is measured and not read from configs: one key scales in one family and divides in another (`logits_scaling` in
HyperCLOVA X and Granite), or has no effect (`final_logit_softcapping` in a multimodal Gemma-3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

TINY, HUGE, WIDEST = 2.0**-20, 2.0**20, 100.0
"""Logits that the model is given: where a cap does nothing, where it does all, and up to where the rest lie."""
TOKENS = 8
"""Of a batch, for a pass through the model that is about its end alone."""


@dataclass(frozen=True)
class Change:
    """`cap * tanh(scale * logits / cap)`; without a cap `scale * logits`."""

    scale: float = 1.0
    cap: float | None = None

    def of_(self, logits: torch.Tensor) -> torch.Tensor:
        """The changed logits, in place."""
        if self.cap is not None:
            return logits.mul_(self.scale / self.cap).tanh_().mul_(self.cap)
        return logits if self.scale == 1.0 else logits.mul_(self.scale)

    def slope_of_(self, changed: torch.Tensor) -> torch.Tensor | None:
        """What gradients of changed logits are multiplied by, in the place of these logits; None is `scale` for all."""
        if self.cap is None:
            return None
        return changed.div_(self.cap).square_().neg_().add_(1.0).mul_(self.scale)


def measured_change(model: Any, head: torch.nn.Linear, inputs: dict[str, Any]) -> Change | None:
    """The change between the output of `head` and the logits of `model`, a collective call without gradients.

    None where it is none that `Change` can say, such as one of single tokens or a vocabulary that is cut.
    """
    asked = torch.linspace(-WIDEST, WIDEST, head.out_features, device=inputs["input_ids"].device)
    asked[0], asked[-1] = TINY, HUGE
    few = {name: given[:1, :TOKENS] if torch.is_tensor(given) else given for name, given in inputs.items()}
    inner = getattr(model, "module", model)
    training = inner.training
    inner.eval()  # dropout would take random numbers of the step
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
    """Inside, a call of `head` is one of `forward`, between the same hooks."""
    head.forward = forward  # type: ignore[assignment]
    try:
        yield
    finally:
        del head.forward
