"""The interface of a filter: its reasons, when it runs, whether it looks at a row or at a table, the keys it reads.

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
"""On the rows of a file of the user's."""
BEFORE: When = "before"
"""On new instructions, before an answer is paid for."""
AFTER: When = "after"
"""On each answer of the teacher, before the judge scores it."""
SCORED: When = "scored"
"""On the answer that is kept, with its `answer_score` if the judge scored it."""


@dataclass(frozen=True)
class Compared:
    """What a table is compared with, for the filters that look at more than a row."""

    indexes: Mapping[str, ray.ObjectRef] = field(default_factory=dict)
    """References to a ContaminationIndex by its name, `holdout` or `evaluation`."""
    bands: str = ""
    """Folder that receives the near-duplicate bands of the table."""
    earlier: Sequence[str] = ()
    """Folders of the bands of the seed data and of earlier rounds."""
    boilerplate: Boilerplate = NO_BOILERPLATE


class Filter:
    """What every filter declares."""

    reasons: ClassVar[Mapping[str, str]] = {}
    """Each reason, without what follows a colon, and what to change if too many rows are filtered for it."""
    keys: ClassVar[tuple[str, ...]] = ()
    """Keys of the config that it reads. They must make the table that it marks stale."""
    when: When = BEFORE

    @classmethod
    def of(cls, config: Config) -> Sequence[Self]:
        """The filter with its settings; none if the config turns it off. Raises InputError for bad settings."""
        return [cls()]


class RowFilter(Filter, ABC):
    """A filter that needs no other row."""

    of_drafts: ClassVar[bool] = False
    """Whether, running AFTER, it looks at the answer that `rewrite.mode: second_pass` rewrites as well."""

    @abstractmethod
    def reason(self, row: Row) -> str | None:
        """The reason to filter an ok row, or None to keep it."""


class TableFilter(Filter, ABC):
    """A filter that compares rows with others, or that is fast on Arrow columns alone."""

    @abstractmethod
    def mark(self, rows: ray.data.Dataset, config: Config, compared: Compared) -> ray.data.Dataset:
        """`rows` with the filtered ones marked; rows not of status ok pass untouched."""


F = TypeVar("F", bound=Callable[..., Any])


def after_answering(function: F) -> F:
    """Decorator of a function of `filter.functions` that is to look at answers: `row["response"]` is then filled.

    Without it a function sees an instruction before it is answered.
    """
    function.when = AFTER  # type: ignore[attr-defined]
    return function


def first_reason(row: Row, filters: Iterable[RowFilter]) -> str | None:
    """The reason of the first filter that applies to an ok row, None if none does."""
    return next((reason for one in filters if (reason := one.reason(row))), None)


def with_reasons(rows: pa.Table, reasons: Sequence[str | None]) -> pa.Table:
    """`rows` with those filtered that have a reason."""
    reason = pa.array(reasons, pa.string())
    return replace_status(rows, pc.is_valid(reason), reason)


def mapped(rows: ray.data.Dataset, function: Callable[[pa.Table], pa.Table], config: Config) -> ray.data.Dataset:
    """`function` of every block of `rows`; lazy."""
    return rows.map_batches(function, batch_format="pyarrow", batch_size=None, num_cpus=config.resources.transform_cpus)
