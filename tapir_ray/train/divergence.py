"""A training that goes wrong: its loss is not finite, or rises and stays high.

health = Health(most_rise=3.0)
if wrong := health.look(losses): ...        # after every step
health.good                                 # steps after which the weights were certainly still good
what_is_left({2: "…/checkpoint_a"}, good=2) # in words, for the error
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir_ray.errors import StageError

WINDOW = 10
"""Steps whose mean loss is compared: one batch may be harder than the others. Before there are so many, the first loss
stands for those that lack, and for the lowest."""


@dataclass
class Health:
    """What the losses so far say of a training."""

    most_rise: float | None
    """Nats that the mean loss of WINDOW steps may lie above its lowest; None watches for finite numbers only."""
    lowest: float = math.inf
    good: int = 0
    """Steps after which the weights can be trusted, once something is wrong."""

    def look(self, losses: Sequence[float], finite_gradients: bool = True) -> str | None:
        """What is wrong after the last of the losses, in words; None where nothing is."""
        if not (math.isfinite(losses[-1]) and finite_gradients):
            # The loss and the gradients of a step are those of the weights after the one before: these are suspect.
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
    """A training that cannot go on; `good` is the number of steps after which its weights can still be trusted."""

    def __init__(self, text: str, good: int) -> None:
        super().__init__(text)
        self.good = good


def what_is_left(kept: Mapping[int, str], good: int) -> str:
    """The last good one of the checkpoints that are there (paths by steps done), and where the same run goes on."""
    if not kept:
        return "there is no checkpoint: without a change the run begins this training again"
    best, latest = max((step for step in kept if step <= good), default=0), max(kept)
    found = f"the last good checkpoint is {kept[best]} (step {best})" if best else "no good checkpoint is left"
    doubt = "" if latest <= good else ", which is not known to be good"
    return f"{found}; without a change the run goes on from the latest, of step {latest}{doubt}"
