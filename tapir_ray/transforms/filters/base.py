"""Interface of a filter: its reasons, when it runs, whether it needs one row or the table, and the keys it reads.

A filter marks rows: status `filtered` and a reason, such as `over_long` or `other_task: Math`. No row is dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from tapir_ray.config import Config
from tapir_ray.data.dedup import replace_status
from tapir_ray.data.ngrams import NO_BOILERPLATE, Boilerplate

Row = Mapping[str, Any]
When = Literal["reading", "before", "after", "scored"]
READING: When = "reading"
"""On the rows of a user's file."""
BEFORE: When = "before"
"""On new instructions, before an answer is paid for."""
AFTER: When = "after"
"""On each answer of the teacher, before the judge scores it."""
SCORED: When = "scored"
"""On the answer that is kept, with its `answer_score` if the judge scored it."""


@dataclass(frozen=True)
class Compared:
    """Indexes and bands that a TableFilter compares a table with."""

    indexes: Mapping[str, ray.ObjectRef] = field(default_factory=dict)
    """By name (`holdout`, `evaluation`): reference to a ContaminationIndex."""
    bands: str = ""
    """Folder that receives the near-duplicate bands of the table."""
    earlier: Sequence[str] = ()
    """Folders of the bands of the seed data and of earlier rounds."""
    boilerplate: Boilerplate = NO_BOILERPLATE


class Filter:
    """Declarations of every filter."""

    reasons: ClassVar[Mapping[str, str]] = {}
    """By reason, without its part after the colon: the advice if too many rows are filtered for it."""
    keys: ClassVar[tuple[str, ...]] = ()
    """Config keys that the filter reads. A change of them must make the marked table stale."""
    when: When = BEFORE

    @classmethod
    def of(cls, config: Config) -> Sequence[Self]:
        """Returns the filter with its settings; empty if it is turned off. Raises InputError for bad settings."""
        return [cls()]


class RowFilter(Filter, ABC):
    """Filter that needs no other row."""

    of_drafts: ClassVar[bool] = False
    """True for a filter that runs AFTER and also checks the draft that `rewrite.mode: second_pass` rewrites."""

    @abstractmethod
    def reason(self, row: Row) -> str | None:
        """Returns the reason to filter an ok row, or None to keep it."""


class TableFilter(Filter, ABC):
    """Filter that compares rows with others, or that works on whole Arrow columns."""

    @abstractmethod
    def mark(self, rows: ray.data.Dataset, config: Config, compared: Compared) -> ray.data.Dataset:
        """Marks the rows to filter; rows that are not ok pass unchanged."""


F = TypeVar("F", bound=Callable[..., Any])


def after_answering(function: F) -> F:
    """Decorator for functions of `filter.functions` that check answers: `row["response"]` is then filled.

    Without it a function sees the instruction before it is answered.
    """
    function.when = AFTER  # type: ignore[attr-defined]
    return function


def first_reason(row: Row, filters: Iterable[RowFilter]) -> str | None:
    """Returns the reason of the first filter that applies to an ok row; None if none does."""
    return next((reason for one in filters if (reason := one.reason(row))), None)


def with_reasons(rows: pa.Table, reasons: Sequence[str | None]) -> pa.Table:
    """Marks the rows with a reason as filtered."""
    reason = pa.array(reasons, pa.string())
    return replace_status(rows, pc.is_valid(reason), reason)


def mapped(rows: ray.data.Dataset, function: Callable[[pa.Table], pa.Table], config: Config) -> ray.data.Dataset:
    """Maps `function` over the blocks of `rows`; lazy."""
    return rows.map_batches(function, batch_format="pyarrow", batch_size=None, num_cpus=config.resources.transform_cpus)
