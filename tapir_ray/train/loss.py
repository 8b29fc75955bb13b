"""The loss of the student: cross-entropy over response tokens, without the logits of a whole sequence in memory.

    loss = response_loss(model, collate(rows, one_row=False))    (a model, a PeftModel or a DeepSpeed engine)

The output layer computes the loss itself, a chunk of tokens after the other, inside its own call in the model's
forward pass: so ZeRO-3 gathers its weight as for any layer, and adapters, checkpointing and hooks stay as they are.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as functional
from torch.autograd.function import once_differentiable

from tapir_ray.train.chat import IGNORED
from tapir_ray.train.output_layer import LossesOf, OutputLayer, as_loss

LOGITS_AT_ONCE = 2**25
"""Logits of a chunk (128 MiB in float32): 1,024 tokens of a vocabulary of 32k. Slower from a quarter of it on down."""


def response_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Sum of the cross-entropy over the response tokens of a batch (nats, a float32 scalar), each predicted by its left
    neighbour.

    Logits are computed only where a response token follows. A model that changes its logits in a way that
    `output_layer.py` does not know, or whose output layer is no linear one, computes those of the whole batch at once.
    """
    return _losses(model, batch, _targets(batch), chunked_cross_entropy).sum()


def token_losses(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The same of each response token, without gradients: float32 [batch, longest], at its left neighbour; else 0."""
    targets_BT = _targets(batch)
    losses_BT = torch.zeros(targets_BT.shape, device=targets_BT.device)
    with torch.no_grad():
        losses_BT[targets_BT != IGNORED] = _losses(model, batch, targets_BT, chunked_token_losses)
    return losses_BT


def _targets(batch: dict[str, Any]) -> torch.Tensor:
    return functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)


def _losses(model: Any, batch: dict[str, Any], targets_BT: torch.Tensor, losses_of: LossesOf) -> torch.Tensor:
    """`losses_of` the response tokens, or, where the logits of the whole batch are there, the loss of each."""
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    head = getattr(model, "module", model).get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        _say_once(head, "the output layer is not a linear one")
        return _losses_of_logits(model, inputs, targets_BT)
    known = getattr(head, _HOW, None)
    for how in (PLAIN, SWITCHED_OFF) if known is None else (known,):
        if how == CHANGED:
            break
        with as_loss(model, head, targets_BT, losses_of, switch_off=how == SWITCHED_OFF) as given:
            output = model(**inputs).logits
        if given.losses is not None and given.is_output(output):
            setattr(head, _HOW, how)
            # Of the model's output, which hooks may have wrapped, where it goes backward.
            return output.flatten() if output.requires_grad else given.losses
    setattr(head, _HOW, CHANGED)
    _say_once(head, "the model changes its logits after the output layer")
    return _losses_of_logits(model, inputs, targets_BT)


PLAIN, SWITCHED_OFF, CHANGED = "plain", "switched off", "changed"
"""A model gives the output layer's output on as it is, does so with its settings for logits switched off, or never."""
_HOW, _SAID = "tapir_how_logits_are_given", "tapir_logits_were_said"
"""On an output layer: which of these it is, found out at the first batch; and that what it costs was said."""


def _say_once(head: Any, why: str) -> None:
    if not getattr(head, _SAID, False):
        setattr(head, _SAID, True)
        logging.getLogger(__name__).warning(
            "all logits of a batch are computed at once, since %s: memory grows with train.micro_batch times "
            "train.sequence_length times the vocabulary; lower train.micro_batch if it does not last",
            why,
        )


def _losses_of_logits(model: Any, inputs: dict[str, Any], targets_BT: torch.Tensor) -> torch.Tensor:
    """The loss of each response token from the model's logits, at positions where some row of the batch has one."""
    keep = (targets_BT != IGNORED).any(dim=0).nonzero().squeeze(1)
    if len(keep) == 0:
        keep = keep.new_zeros(1)
    logits = model(**inputs, logits_to_keep=keep).logits.float()
    targets_N = targets_BT[:, keep].flatten()
    losses_N = functional.cross_entropy(logits.flatten(0, 1), targets_N, ignore_index=IGNORED, reduction="none")
    return losses_N[targets_N != IGNORED]


def chunked_cross_entropy(hidden_NH: torch.Tensor, layer: OutputLayer, targets_N: torch.Tensor) -> torch.Tensor:
    """Sum of the cross-entropy of the layer's logits (nats, a float32 scalar), `LOGITS_AT_ONCE` at a time."""
    chunk = max(1, LOGITS_AT_ONCE // len(layer.weight_VH))
    loss: torch.Tensor = _ChunkedCrossEntropy.apply(
        hidden_NH, layer.weight_VH, layer.bias_V, targets_N, layer.scale, layer.cap, chunk, torch.is_grad_enabled()
    )
    return loss


def chunked_token_losses(hidden_NH: torch.Tensor, layer: OutputLayer, targets_N: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each row of the layer's logits (nats, float32 [N]), `LOGITS_AT_ONCE` at a time."""
    chunk = max(1, LOGITS_AT_ONCE // len(layer.weight_VH))
    parts = zip(hidden_NH.split(chunk), targets_N.split(chunk), strict=True)
    return torch.cat([functional.cross_entropy(layer.logits(h).float(), t, reduction="none") for h, t in parts])


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while a chunk's logits are there: nothing is computed twice."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        scale: float,
        cap: float | None,
        chunk: int,
        grad: bool,
    ) -> torch.Tensor:
        layer = OutputLayer(weight_VH, bias_V, scale, cap)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_NH.device)
        hidden_grad = torch.empty_like(hidden_NH) if grad and ctx.needs_input_grad[0] else None
        # In 32 bits, as a sum over chunks in 16 would lose what one product over all tokens keeps.
        weight_grad = torch.zeros_like(weight_VH, dtype=torch.float32) if grad and ctx.needs_input_grad[1] else None
        bias_grad = (
            torch.zeros_like(bias_V, dtype=torch.float32)
            if bias_V is not None and grad and ctx.needs_input_grad[2]
            else None
        )
        for start in range(0, len(hidden_NH), chunk):
            hidden_CH, targets_C1 = hidden_NH[start : start + chunk], targets_N[start : start + chunk, None]
            logits_CV = layer.logits(hidden_CH)
            log_probs_CV = functional.log_softmax(logits_CV.float(), dim=-1)
            slope_CV = None if cap is None else 1 - (logits_CV / cap).float().square()
            del logits_CV
            loss -= log_probs_CV.gather(1, targets_C1).sum()
            if hidden_grad is None and weight_grad is None and bias_grad is None:
                continue
            logits_grad_CV = log_probs_CV.exp_().scatter_add_(1, targets_C1, loss.new_full(targets_C1.shape, -1.0))
            if slope_CV is not None:
                logits_grad_CV *= slope_CV
            if scale != 1.0:
                logits_grad_CV *= scale
            if bias_grad is not None:
                bias_grad += logits_grad_CV.sum(dim=0)
            logits_grad_CV = logits_grad_CV.to(weight_VH.dtype)
            if hidden_grad is not None:
                torch.mm(logits_grad_CV, weight_VH, out=hidden_grad[start : start + chunk])
            if weight_grad is not None and weight_VH.dtype == torch.float32:
                weight_grad.addmm_(logits_grad_CV.T, hidden_CH)
            elif weight_grad is not None:
                weight_grad += logits_grad_CV.T @ hidden_CH
        weight_grad = None if weight_grad is None else weight_grad.to(weight_VH.dtype)
        ctx.gradients = hidden_grad, weight_grad, None if bias_grad is None else bias_grad.to(weight_VH.dtype)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: torch.Tensor) -> Any:
        gradients = ctx.gradients
        # Scaled in place: a second pass backward must fail, not scale them again.
        del ctx.gradients
        return *(None if gradient is None else gradient.mul_(scale) for gradient in gradients), *[None] * 5
