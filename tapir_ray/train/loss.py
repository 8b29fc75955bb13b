"""The loss of packed sequences: response tokens only.

loss = response_loss(model, collate(rows, one_row=False))
"""

from __future__ import annotations

from typing import Any

from tapir_ray.train.chat import IGNORED


def response_loss(model: Any, batch: dict[str, Any]) -> Any:
    """Sum of the cross-entropy over the response tokens of a batch (nats, a float32 scalar), each predicted by its left
    neighbour. Logits are computed only at positions where some row of the batch has a response token.
    """
    import torch.nn.functional as functional

    targets = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    keep = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    if len(keep) == 0:
        keep = keep.new_zeros(1)
    output = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, logits_to_keep=keep
    )
    logits = output.logits.float()
    return functional.cross_entropy(
        logits.flatten(0, 1), targets[:, keep].flatten(), ignore_index=IGNORED, reduction="sum"
    )
