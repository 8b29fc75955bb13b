"""Task weights that follow the student (`curriculum.weights_by: ddk`): tasks in which it lags behind gain weight.

    moved = reweighed(stats, config.curriculum.ddk, taxonomy, tasks, before)
    moved.taxonomy.weights          # r' = a ψ / Σψ + (1 − a) b, with ψ = r · exp(s · gap / 9)

DDK (arXiv 2407.16154) multiplies by exp(PPL_S / PPL_T) of each domain, and smooths towards 1 / N. A black-box teacher
has no perplexity, so the gap is the judge's: mean teacher_score − student_score, −9 to 9. And b is the task's weight in
the taxonomy, so that the published weights stay the prior: with equal weights b is 1 / N. Both are our decisions.

The weights are bounded: r' is at least (1 − a) b, and a task's factor is within exp(±s).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from tapir_ray.config.curriculum import Ddk
from tapir_ray.curriculum.stats import ScoreStats
from tapir_ray.curriculum.tasks import Taxonomy

WIDEST_GAP = 9.0
"""Largest difference of two scores from 1 to 10."""


@dataclass(frozen=True)
class Reweighed:
    """A taxonomy with the updated weights, the weights before, and the gaps by task that were measured."""

    taxonomy: Taxonomy
    asked: dict[str, float] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)


def reweighed(
    stats: ScoreStats, settings: Ddk, taxonomy: Taxonomy, present: Collection[str], before: Mapping[str, float]
) -> Reweighed:
    """Returns the update of the weights of the `present` tasks; `before` are those of the round before, if any.

    A task without a judged row has the mean gap of all judged rows. Without any judged row nothing changes.
    """
    base = taxonomy.effective_weights(present)
    asked = _scaled({task: before.get(task, weight) for task, weight in base.items()})
    judged = sum(task.judged for task in stats.by_task.values())
    if not judged:
        return Reweighed(with_weights(taxonomy, asked), asked, dict.fromkeys(asked, 0.0))
    found = {name: task.teacher_score - task.student_score for name, task in stats.by_task.items()
             if task.teacher_score is not None and task.student_score is not None}  # fmt: skip
    mean = sum(gap * stats.by_task[name].judged for name, gap in found.items()) / judged
    gaps = {task: found.get(task, mean) for task in asked}
    return Reweighed(with_weights(taxonomy, updated(asked, gaps, base, settings)), asked, gaps)


def updated(
    weights: Mapping[str, float], gaps: Mapping[str, float], base: Mapping[str, float], settings: Ddk
) -> dict[str, float]:
    """Returns r' = a ψ / Σψ + (1 − a) b by task; weights and result sum to 1."""
    factors = {task: math.exp(settings.strength * gaps[task] / WIDEST_GAP) for task in weights}
    moved = _scaled({task: weight * factors[task] for task, weight in weights.items()})
    share = settings.share
    return {task: share * moved[task] + (1.0 - share) * base[task] for task in weights}


def with_weights(taxonomy: Taxonomy, weights: Mapping[str, float]) -> Taxonomy:
    """Returns the taxonomy with `weights` of some tasks, which together keep the weight that they had."""
    total = sum(taxonomy.weights[task] for task in weights)
    scaled = {task: weight * total for task, weight in weights.items()}
    return dataclasses.replace(taxonomy, weights={**taxonomy.weights, **scaled})


def _scaled(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {task: weight / total for task, weight in weights.items()}
