"""Detects a diverged training: its loss is not finite, or rises and stays high.

health = Health(most_rise=3.0)
if wrong := health.look(losses): ...        # after every step
health.good                                 # number of steps after which the weights were still good
what_is_left({2: "…/checkpoint_a"}, good=2) # a sentence for the error
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir_ray.errors import StageError

WINDOW = 10
"""Number of steps whose mean loss is compared, because a single batch may be harder than the others. Before that many
steps, the first loss stands in for the missing ones and for the lowest mean."""


@dataclass
class Health:
    """State of a training, judged by its losses so far."""

    most_rise: float | None
    """Largest rise of the mean loss of WINDOW steps above its lowest value, in nats; None checks only for finite
    numbers."""
    lowest: float = math.inf
    good: int = 0
    """Number of steps after which the weights can be trusted; final once `look` has reported a fault."""

    def look(self, losses: Sequence[float], finite_gradients: bool = True) -> str | None:
        """A description of the fault after the last loss; None if there is none. To be called after every step."""
        if not (math.isfinite(losses[-1]) and finite_gradients):
            # Loss and gradients of step n are computed with the weights after step n - 1, so these are suspect too.
            self.good = len(losses) - 2
            return "the gradients are not finite" if math.isfinite(losses[-1]) else f"the loss is {losses[-1]}"
        lacking = max(0, WINDOW - len(losses))
        mean = (sum(losses[-WINDOW:]) + lacking * losses[0]) / WINDOW
        lowest = losses[0] if lacking else self.lowest
        if mean < lowest and not lacking:
            self.lowest, self.good = mean, len(losses) - 1
        elif self.most_rise is not None and mean > lowest + self.most_rise:
            rise = f"from {lowest:.2f} to {mean:.2f} (means of {WINDOW} steps)"
            return f"the loss rose {rise}, by more than train.max_loss_rise {self.most_rise}"
        return None


class Diverged(StageError):
    """A training that diverged; `good` is the number of steps after which its weights can still be trusted."""

    def __init__(self, text: str, good: int) -> None:
        super().__init__(text)
        self.good = good


def what_is_left(kept: Mapping[int, str], good: int) -> str:
    """A sentence on the last good checkpoint of `kept` (paths by number of steps), and on where the run continues."""
    if not kept:
        return "there is no checkpoint: without a change the run starts this training again"
    best, latest = max((step for step in kept if step <= good), default=0), max(kept)
    found = f"the last good checkpoint is {kept[best]} (step {best})" if best else "no good checkpoint is left"
    doubt = "" if latest <= good else ", which is not known to be good"
    return f"{found}; without a change the run continues from the latest, of step {latest}{doubt}"
