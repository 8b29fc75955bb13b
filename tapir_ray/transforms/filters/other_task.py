"""`other_task: LABEL`: an instruction that the classifier gives another task than the requested one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from tapir_ray.config import Config
from tapir_ray.transforms.filters.base import Row, RowFilter


@dataclass(frozen=True)
class OtherTask(RowFilter):
    """Filters rows whose `task_predicted` differs from `task`, if `task_prob` is at least `least_prob`.

    Rows without the classifier's columns pass.
    """

    reasons: ClassVar = {
        "other_task": "the classifier disagrees with the tasks: check classifier/report.json, or set "
        "filter.other_task: false"
    }
    keys = ("filter.other_task", "classify.min_task_prob")
    least_prob: float

    @classmethod
    def of(cls, config: Config) -> Sequence[Self]:
        return [cls(config.classify.min_task_prob)] if config.filter.other_task else []

    def reason(self, row: Row) -> str | None:
        predicted = row.get("task_predicted")
        sure = (row.get("task_prob") or 0.0) >= self.least_prob
        return f"other_task: {predicted}" if predicted is not None and predicted != row["task"] and sure else None
