"""The output layer of a student, made to give a loss in the place of logits, whatever the model does to these.

    with as_loss(model, head, targets_BT, losses_of, switch_off=False) as given:
        output = model(**inputs).logits                 # the loss, if given.is_output(output)

What models do to the layer's output (Gemma caps it, Cohere and Granite scale it) can be switched off in the model
meanwhile, and is then done where the loss is computed, chunk by chunk. That a model has such a setting does not say
that it follows it: where the loss comes through with it switched off, and not without, it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional

from tapir_ray.train.chat import IGNORED

CAP, SCALE, DIVISOR = "final_logit_softcapping", "logit_scale", "logits_scaling"
"""What a model or its config calls them; a model multiplies by SCALE and divides by DIVISOR."""
OFF = {CAP: None, SCALE: 1.0, DIVISOR: 1.0}


@dataclass(frozen=True)
class OutputLayer:
    """Logits of hidden states: cap · tanh(scale · (hidden @ weight.T + bias) / cap), without what is None."""

    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """[N, V], in the dtype of the layer, as the model computes them."""
        logits_NV = functional.linear(hidden_NH, self.weight_VH, self.bias_V)
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        return logits_NV if self.cap is None else torch.tanh(logits_NV / self.cap) * self.cap


LossesOf = Callable[[torch.Tensor, OutputLayer, torch.Tensor], torch.Tensor]
"""Of hidden states [N, H], the output layer and targets [N]: the loss of each, or their sum."""


@dataclass
class Given:
    """What an output layer gave instead of logits: a loss of shape [1, 1, 1], as it was then."""

    scaled: bool = False
    """Whether the model has a scale, which is 1 now: it then gives on another tensor of the same value."""
    loss: torch.Tensor | None = None
    losses: torch.Tensor | None = None
    """What `loss` is the sum of."""
    version: int = 0

    def is_output(self, output: torch.Tensor) -> bool:
        """Whether the model gave on the loss as it was (hooks may have wrapped it: the same memory, not the same
        object)."""
        assert self.loss is not None
        same = output.data_ptr() == self.loss.data_ptr() and output._version == self.version
        return same or (self.scaled and torch.equal(output, self.loss))


@contextmanager
def as_loss(
    model: Any, head: torch.nn.Linear, targets_BT: torch.Tensor, losses_of: LossesOf, switch_off: bool
) -> Iterator[Given]:
    """Inside, the call of the model's output layer `head` with hidden states gives the loss of `targets_BT`.

    `switch_off` what the model is set to do to logits, and do it in the layer.
    """
    settings = _settings(model) if switch_off else []
    found = {name: value for _, name, value in settings}
    scale = (found.get(SCALE) or 1.0) / (found.get(DIVISOR) or 1.0)
    given = Given(scaled=SCALE in found or DIVISOR in found)

    def forward(hidden_BTH: torch.Tensor) -> torch.Tensor:
        if hidden_BTH.shape[:-1] != targets_BT.shape:
            return functional.linear(hidden_BTH, head.weight, head.bias)
        index_N = (targets_BT.flatten() != IGNORED).nonzero().squeeze(1)
        hidden_NH = hidden_BTH.flatten(0, 1).index_select(0, index_N)
        layer = OutputLayer(head.weight, head.bias, scale, found.get(CAP))
        given.losses = losses_of(hidden_NH, layer, targets_BT.flatten()[index_N])
        given.loss = given.losses.sum().view(1, 1, 1)
        given.version = given.loss._version
        return given.loss

    head.forward = forward  # type: ignore[assignment]
    for owner, name, _ in settings:
        setattr(owner, name, OFF[name])
    try:
        yield given
    finally:
        del head.forward
        for owner, name, value in settings:
            setattr(owner, name, value)


def _settings(model: Any) -> list[tuple[Any, str, float]]:
    """(who has it, name, value) of what a model or its config says is done to logits."""
    causal = getattr(model, "module", model)
    causal = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
    owners = {id(one): one for one in (causal, causal.config, causal.config.get_text_config())}.values()
    every = [(owner, name, getattr(owner, name, None)) for owner in owners for name in OFF]
    return [(owner, name, value) for owner, name, value in every if isinstance(value, int | float)]
