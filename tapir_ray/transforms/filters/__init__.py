"""Filters of rows, one a file: of instructions before an answer is paid for, and of answers.

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
"""In the order in which they apply. Those that look at a row alone are cheap, so they stand before Contamination and
Duplicates; a function of the user's never sees what one of ours has filtered."""


def row_filters(config: Config, when: When) -> list[RowFilter]:
    """The filters of a config that look at a row alone at that time, in order. Raises InputError for bad settings."""
    return [one for one in _filters(config, when) if isinstance(one, RowFilter)]


def filter_read(rows: ray.data.Dataset, config: Config) -> ray.data.Dataset:
    """The rows of a file of the user's, those marked that cannot be used as the config says; lazy."""
    return _tables_marked(rows, config, READING, Compared())


def filter_generated(
    rows: ray.data.Dataset,
    config: Config,
    indexes: Mapping[str, ray.ObjectRef],
    work_dir: str,
    earlier: Sequence[str],
    boilerplate: Boilerplate = NO_BOILERPLATE,
) -> ray.data.Dataset:
    """All filters of a round's generated rows before they are answered; every row comes out.

    `rows` need `draw_id`, `round`, `instruction_id`, `messages`, `task`, `status` and `reason`; with the classifier's
    columns `task_predicted` and `task_prob` the task is checked. `indexes` are by the name `holdout` or `evaluation`.
    `work_dir` receives the bands of the rows that pass all filters but the one of duplicates; `earlier` are the folders
    of the seed data and of earlier rounds. Runs at once up to the join of Duplicates. Raises InputError for an unknown
    function.
    """
    compared = Compared(indexes, work_dir, earlier, boilerplate)
    return _tables_marked(check_rows(rows, config), config, BEFORE, compared)


def check_rows(rows: ray.data.Dataset, config: Config) -> ray.data.Dataset:
    """The rows marked by the filters that look at an instruction alone; lazy."""
    return mapped(rows, functools.partial(mark_rows, filters=row_filters(config, BEFORE)), config)


def filter_answers(rows: ray.data.Dataset, config: Config) -> ray.data.Dataset:
    """Answered rows, those marked that a function of `filter.functions` drops after answering; lazy.

    For answers of an `expand.annotation` of the user's; `respond` applies all filters of answers itself.
    """
    functions = [one for one in UserFunction.of(config) if one.when == AFTER]
    return mapped(rows, functools.partial(mark_rows, filters=functions), config) if functions else rows


def mark_rows(rows: pa.Table, filters: Sequence[RowFilter]) -> pa.Table:
    """A table with the ok rows marked to which one of the filters applies."""
    reasons = [first_reason(row, filters) if row["status"] == OK else None for row in rows.to_pylist()]
    return with_reasons(rows, reasons)


def advice_on(reason: str) -> str:
    """What to change if too many rows are filtered for a reason (without what follows a colon)."""
    return next((kind.reasons[reason] for kind in FILTERS if reason in kind.reasons), ADVICE)


def _filters(config: Config, when: When) -> list[Filter]:
    return [one for kind in FILTERS for one in kind.of(config) if one.when == when]


def _tables_marked(rows: ray.data.Dataset, config: Config, when: When, compared: Compared) -> ray.data.Dataset:
    for one in _filters(config, when):
        if isinstance(one, TableFilter):
            rows = one.mark(rows, config, compared)
    return rows
