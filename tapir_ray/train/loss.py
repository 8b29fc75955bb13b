"""Cross-entropy of the student over response tokens, without the logits of a whole sequence in memory.

    loss = response_loss(model, collate(rows, one_row=False))    # a model, a PeftModel or a DeepSpeed engine

The output layer computes the loss in its own call in the model's forward pass, one chunk of tokens after the other. So
ZeRO-3 gathers its weight as for any layer, and adapters, checkpointing and hooks are unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch.autograd.function import once_differentiable

from tapir_ray.train.chat import IGNORED
from tapir_ray.train.logits import Change, called_as, measured_change

LossesOf = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, Change], torch.Tensor]
"""Function of hidden states [N, H], the output layer's weight [V, H], targets [N], the layer's bias [V] and the change
of its logits; returns the loss of each target, or their sum."""
PLAIN = Change()
LOGITS_AT_ONCE = 2**25
"""Logits of a chunk (128 MiB in float32): 1,024 tokens at a vocabulary of 32k. A quarter of it, or less, is slower."""


def response_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Returns the sum of the cross-entropy over the response tokens of a batch, in nats: a float32 scalar.

    Each token is predicted by its left neighbour, and only such neighbours get logits. Two kinds of model compute the
    logits of the whole batch at once: those whose output layer is not linear, and those that change their logits
    afterwards by more than a scale and a soft cap.
    """
    return _losses(model, batch, _targets(batch), chunked_cross_entropy).sum()


def token_losses(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Returns the cross-entropy of each response token, in nats and without gradients: float32 [batch, longest].

    The loss of a token is at its left neighbour; all other places are 0.
    """
    targets_BT = _targets(batch)
    losses_BT = torch.zeros(targets_BT.shape, device=targets_BT.device)
    with torch.no_grad():
        losses_BT[targets_BT != IGNORED] = _losses(model, batch, targets_BT, chunked_token_losses)
    return losses_BT


def _targets(batch: dict[str, Any]) -> torch.Tensor:
    return functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)


def _losses(model: Any, batch: dict[str, Any], targets_BT: torch.Tensor, losses_of: LossesOf) -> torch.Tensor:
    """Returns `losses_of` the response tokens, or the loss of each if the logits of the whole batch are computed."""
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    head = getattr(model, "module", model).get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        _warn_once(head, "its output layer is not a plain matrix")
        return _losses_of_logits(model, inputs, targets_BT)
    if not hasattr(head, _CHANGE):
        setattr(head, _CHANGE, measured_change(model, head, inputs))
    change: Change | None = getattr(head, _CHANGE)
    given = _Given()
    if change is not None:
        with called_as(head, _as_loss(given, head, targets_BT, losses_of, change)):
            output = model(**inputs).logits
    if change is None or given.losses is None or output.numel() != 1:
        setattr(head, _CHANGE, None)
        _warn_once(head, "the model changes its logits after the output layer")
        return _losses_of_logits(model, inputs, targets_BT)
    if not output.requires_grad:
        return given.losses
    # Backward goes through the model's output, which hooks may have wrapped, and what the model does to a 0.
    return given.losses.detach().sum() + output.flatten() / change.scale


_CHANGE, _WARNED = "tapir_change_of_logits", "tapir_logits_warned"
"""Attributes of an output layer: the change of its logits, measured before the first batch (None if `Change` cannot
express it); and True once the cost of that was logged."""


def _warn_once(head: Any, why: str) -> None:
    if not getattr(head, _WARNED, False):
        setattr(head, _WARNED, True)
        logging.getLogger(__name__).warning(
            "all logits of a batch are computed at once, since %s: memory grows with train.micro_batch_size times "
            "train.sequence_length times the vocabulary; lower train.micro_batch_size if it runs out",
            why,
        )


@dataclass
class _Given:
    """Losses that an output layer computed instead of logits; None if it was never called for the whole batch."""

    losses: torch.Tensor | None = None


def _as_loss(
    given: _Given, head: torch.nn.Linear, targets_BT: torch.Tensor, losses_of: LossesOf, change: Change
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns a forward of `head` that computes the loss of `targets_BT` and returns a 0 with the loss's gradient.

    The 0 has shape [1, 1, 1]. A later scale and cap leave it 0, and multiply its gradient by the scale.
    """

    def forward(hidden_BTH: torch.Tensor) -> torch.Tensor:
        if hidden_BTH.shape[:-1] != targets_BT.shape:
            return functional.linear(hidden_BTH, head.weight, head.bias)
        index_N = (targets_BT.flatten() != IGNORED).nonzero().squeeze(1)
        hidden_NH = hidden_BTH.flatten(0, 1).index_select(0, index_N)
        given.losses = losses_of(hidden_NH, head.weight, targets_BT.flatten()[index_N], head.bias, change)
        loss = given.losses.sum()
        return (loss - loss.detach()).view(1, 1, 1)

    return forward


def _losses_of_logits(model: Any, inputs: dict[str, Any], targets_BT: torch.Tensor) -> torch.Tensor:
    """Returns the loss of each response token, from logits at all positions where a row of the batch has one."""
    keep = (targets_BT != IGNORED).any(dim=0).nonzero().squeeze(1)
    if len(keep) == 0:
        keep = keep.new_zeros(1)
    logits = model(**inputs, logits_to_keep=keep).logits.float()
    targets_N = targets_BT[:, keep].flatten()
    losses_N = functional.cross_entropy(logits.flatten(0, 1), targets_N, ignore_index=IGNORED, reduction="none")
    return losses_N[targets_N != IGNORED]


def chunked_cross_entropy(
    hidden_NH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None = None,
    change: Change = PLAIN,
) -> torch.Tensor:
    """Returns the sum of the cross-entropy of the logits `change(hidden @ weight.T + bias)`, in nats: a float32 scalar.

    It computes at most `LOGITS_AT_ONCE` logits at a time.
    """
    # Not torch's linear_cross_entropy: it has no soft cap, and sums the loss of a batch in the type of `hidden`, which
    # in bfloat16 keeps three digits (docs/decisions.md).
    chunk = max(1, LOGITS_AT_ONCE // len(weight_VH))
    grad = torch.is_grad_enabled()
    loss: torch.Tensor = _ChunkedCrossEntropy.apply(hidden_NH, weight_VH, bias_V, targets_N, change, chunk, grad)
    return loss


def chunked_token_losses(
    hidden_NH: torch.Tensor,
    weight_VH: torch.Tensor,
    targets_N: torch.Tensor,
    bias_V: torch.Tensor | None = None,
    change: Change = PLAIN,
) -> torch.Tensor:
    """Returns the cross-entropy of each row of such logits, without gradients, in nats: float32 [N]."""
    chunk = max(1, LOGITS_AT_ONCE // len(weight_VH))
    parts = zip(hidden_NH.split(chunk), targets_N.split(chunk), strict=True)
    return torch.cat(
        [
            functional.cross_entropy(change.of_(functional.linear(h, weight_VH, bias_V).float()), t, reduction="none")
            for h, t in parts
        ]
    )


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while a chunk's logits are there: nothing is computed twice."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        change: Change,
        chunk: int,
        grad: bool,
    ) -> torch.Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden_NH.device)
        of_hidden, of_weight, of_bias = (grad and needed for needed in ctx.needs_input_grad[:3])
        hidden_grad = torch.empty_like(hidden_NH) if of_hidden else None
        # In 32 bits, as a sum over chunks in 16 would lose what one product over all tokens keeps.
        weight_grad = torch.zeros_like(weight_VH, dtype=torch.float32) if of_weight else None
        bias_grad = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and of_bias else None
        for start in range(0, len(hidden_NH), chunk):
            hidden_CH, targets_C1 = hidden_NH[start : start + chunk], targets_N[start : start + chunk, None]
            logits_CV = change.of_(functional.linear(hidden_CH, weight_VH, bias_V).float())
            slope_CV = change.slope_of(logits_CV) if of_hidden or of_weight or of_bias else None
            # In place: the logits of a chunk are most of the memory here.
            logits_CV -= logits_CV.amax(dim=-1, keepdim=True)
            loss -= logits_CV.gather(1, targets_C1).sum()
            sums_C1 = logits_CV.exp_().sum(dim=-1, keepdim=True)
            loss += sums_C1.log().sum()
            if not (of_hidden or of_weight or of_bias):
                continue
            logits_grad_CV = logits_CV.div_(sums_C1)
            logits_grad_CV.scatter_add_(1, targets_C1, loss.new_full(targets_C1.shape, -1.0))
            del logits_CV
            if slope_CV is not None or change.scale != 1.0:
                logits_grad_CV.mul_(change.scale if slope_CV is None else slope_CV)
            if bias_grad is not None:
                bias_grad += logits_grad_CV.sum(dim=0)
            logits_grad_CV = logits_grad_CV.to(weight_VH.dtype)
            if hidden_grad is not None:
                torch.mm(logits_grad_CV, weight_VH, out=hidden_grad[start : start + chunk])
            if weight_grad is not None and weight_VH.dtype == torch.float32:
                weight_grad.addmm_(logits_grad_CV.T, hidden_CH)
            elif weight_grad is not None:
                weight_grad += logits_grad_CV.T @ hidden_CH
            del logits_grad_CV  # else it would be held together with the next chunk's
        summed = ((weight_grad, weight_VH), (bias_grad, bias_V))
        ctx.gradients = hidden_grad, *(None if g is None or w is None else g.to(w.dtype) for g, w in summed)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> Any:
        gradients = ctx.gradients
        # Scaled in place: a second pass backward must fail, not scale them again.
        del ctx.gradients
        return *(None if gradient is None else gradient.mul_(scale) for gradient in gradients), None, None, None, None
