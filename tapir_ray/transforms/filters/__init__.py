"""Filters of rows, one a file: of instructions before their answers are paid for, and of answers.

    marked = filter_generated(rows, config, {"holdout": index}, work_dir, earlier=[bands])     # of a round
    marked = check_rows(rows, config)                                                          # each row alone
    reason = first_reason(row, row_filters(config, AFTER))                                     # of an answered row

Rows are marked, never dropped: status `filtered` and the reason of the first filter in FILTERS that applies.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import pyarrow as pa
import ray
import ray.data

from tapir_ray.config import Config
from tapir_ray.data.ngrams import NO_BOILERPLATE, Boilerplate
from tapir_ray.data.schemas import OK
from tapir_ray.transforms.filters.base import (
    AFTER,
    BEFORE,
    READING,
    SCORED,
    Compared,
    Filter,
    RowFilter,
    TableFilter,
    When,
    after_answering,
    first_reason,
    mapped,
    with_reasons,
)
from tapir_ray.transforms.filters.below_min_score import BelowMinScore
from tapir_ray.transforms.filters.contamination import Contamination
from tapir_ray.transforms.filters.duplicates import Duplicates
from tapir_ray.transforms.filters.empty import Empty
from tapir_ray.transforms.filters.no_response import NoResponse
from tapir_ray.transforms.filters.other_task import OtherTask
from tapir_ray.transforms.filters.over_long import OverLong
from tapir_ray.transforms.filters.prompt_leakage import PromptLeakage
from tapir_ray.transforms.filters.refused import Refused
from tapir_ray.transforms.filters.user_function import ADVICE, UserFunction

__all__ = ["AFTER", "BEFORE", "FILTERS", "SCORED", "advice_on", "after_answering", "check_rows", "filter_answers",
           "filter_generated", "filter_read", "first_reason", "mark_rows", "row_filters"]  # fmt: skip

FILTERS: tuple[type[Filter], ...] = (
    NoResponse,
    Empty,
    OverLong,
    PromptLeakage,
    OtherTask,
    Refused,
    UserFunction,
    Contamination,
    Duplicates,
    BelowMinScore,
)
"""Filters in the order in which they apply. Filters of single rows are cheap, so they come before Contamination and
Duplicates. A user's function never sees a row that a filter before it has marked."""


def row_filters(config: Config, when: When) -> list[RowFilter]:
    """Returns the filters of single rows that run at that time, in order. Raises InputError for bad settings."""
    return [one for one in _filters(config, when) if isinstance(one, RowFilter)]


def filter_read(rows: ray.data.Dataset, config: Config) -> ray.data.Dataset:
    """Marks the rows of a user's file that the config cannot use; lazy."""
    return _tables_marked(rows, config, READING, Compared())


def filter_generated(
    rows: ray.data.Dataset,
    config: Config,
    indexes: Mapping[str, ray.ObjectRef],
    work_dir: str,
    earlier: Sequence[str],
    boilerplate: Boilerplate = NO_BOILERPLATE,
) -> ray.data.Dataset:
    """Applies all filters before answering to a round's generated rows; every row comes out.

    `rows` need the columns draw_id, round, instruction_id, messages, task, status and reason; with `task_predicted`
    and `task_prob` the task is checked as well. `indexes` are named `holdout` and `evaluation`. `work_dir` receives the
    near-duplicate bands of the rows that pass all other filters; `earlier` are the folders of the seed data's bands and
    of earlier rounds. Runs at once up to the join of Duplicates. Raises InputError for an unknown function.
    """
    compared = Compared(indexes, work_dir, earlier, boilerplate)
    return _tables_marked(check_rows(rows, config), config, BEFORE, compared)


def check_rows(rows: ray.data.Dataset, config: Config) -> ray.data.Dataset:
    """Marks rows by the filters of single instructions; lazy."""
    return mapped(rows, functools.partial(mark_rows, filters=row_filters(config, BEFORE)), config)


def filter_answers(rows: ray.data.Dataset, config: Config) -> ray.data.Dataset:
    """Marks answered rows by the `filter.functions` that run after answering; lazy.

    Only for a user's own `expand.annotation`: `respond` applies all filters of answers itself.
    """
    functions = [one for one in UserFunction.of(config) if one.when == AFTER]
    return mapped(rows, functools.partial(mark_rows, filters=functions), config) if functions else rows


def mark_rows(rows: pa.Table, filters: Sequence[RowFilter]) -> pa.Table:
    """Marks the ok rows of a table to which one of the filters applies."""
    reasons = [first_reason(row, filters) if row["status"] == OK else None for row in rows.to_pylist()]
    return with_reasons(rows, reasons)


def advice_on(reason: str) -> str:
    """Returns the advice for too many rows filtered for a reason, given without its part after the colon."""
    return next((kind.reasons[reason] for kind in FILTERS if reason in kind.reasons), ADVICE)


def _filters(config: Config, when: When) -> list[Filter]:
    return [one for kind in FILTERS for one in kind.of(config) if one.when == when]


def _tables_marked(rows: ray.data.Dataset, config: Config, when: When, compared: Compared) -> ray.data.Dataset:
    for one in _filters(config, when):
        if isinstance(one, TableFilter):
            rows = one.mark(rows, config, compared)
    return rows
