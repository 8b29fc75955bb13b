"""Explanation-guided sample selection (EGSS) of ELAD (arXiv 2402.13098): the uncertainty of a student's steps.

    uncertainty(whole=["7", "7", "7", "9"], prefixes=[["7", "7", "7", "7"], ["7", "9", "8", "9"]])
    # by_step (0.0, 0.5), disagreement 0.25, total 0.25 + 0.25 = 0.5

No code of the paper was found, so the formula is ours: u_j = 1 − share of the most frequent final answer among the k
continuations of prefix j. A question's uncertainty is the mean of u_j plus the same of k whole explanations.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tapir_ray.curriculum.quotas import apportion
from tapir_ray.data.schemas import order_key


@dataclass(frozen=True)
class Uncertainty:
    """Uncertainty of the student about one question."""

    by_step: tuple[float, ...]
    """u_j of each continued prefix, in order, each from 0 to 1."""
    disagreement: float
    """1 − share of the most frequent final answer among the whole explanations."""

    @property
    def total(self) -> float:
        """Mean of `by_step` (0 without a prefix) plus `disagreement`, from 0 to below 2."""
        return (fmean(self.by_step) if self.by_step else 0.0) + self.disagreement


def uncertainty(whole: Sequence[str | None], prefixes: Sequence[Sequence[str | None]]) -> Uncertainty:
    """Returns the uncertainty from the final answers of whole explanations, and of each prefix's continuations."""
    return Uncertainty(tuple(map(disagreement, prefixes)), disagreement(whole))


def disagreement(answers: Sequence[str | None]) -> float:
    """Returns 1 − share of the most frequent answer; None, for no answer, equals no other. Without answers 0."""
    if not answers:
        return 0.0
    counts = Counter(answer for answer in answers if answer is not None)
    return 1.0 - max(counts.values(), default=0) / len(answers)


def chosen(values: Mapping[str, float], rows: int, random_seed: int, *salt: object) -> set[str]:
    """Returns the ids of the highest `values`, up to `rows`; equal values are ordered by a hash of the id."""
    ranked = sorted(values, key=lambda row_id: (-values[row_id], order_key(row_id, random_seed, *salt)))
    return set(ranked[:rows])


def chosen_by_task(
    values: Mapping[str, float],
    tasks: Mapping[str, str],
    rows: int,
    weights: Mapping[str, float],
    random_seed: int,
    *salt: object,
) -> set[str]:
    """Returns the ids of the highest `values` of each task, up to `rows` in all, by the tasks' weights.

    A task with fewer rows than its share leaves the rest to the others. Rows of a task without a weight are not chosen.
    """
    by_task: dict[str, dict[str, float]] = defaultdict(dict)
    for row_id, value in values.items():
        if weights.get(tasks[row_id], 0.0) > 0.0:
            by_task[tasks[row_id]][row_id] = value
    capacity = {task: len(found) for task, found in by_task.items()}
    quota = apportion(min(rows, sum(capacity.values())), capacity, weights) if capacity else {}
    return set().union(*(chosen(by_task[task], count, random_seed, *salt) for task, count in quota.items()))
