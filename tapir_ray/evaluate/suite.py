"""Interface of an evaluation suite: items, the student's answers, their scores, and a summary.

    class Capitals(Suite):
        def items(self): return self.run.read("capitals")     # rows with instruction_id, messages, response, task
        def scored(self, rows): return rows.map_batches(exact_match, batch_format="pyarrow")

The results of a suite are a table of the run, one row per item. A stopped evaluation continues at its missing rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.config import Config
from tapir_ray.data.schemas import OK, SCORED
from tapir_ray.evaluate.paired import Metric
from tapir_ray.llm.roles import Roles
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run

FOLLOW_UPS = "follow_ups"
"""Column of a suite with several turns: the user turns of an item after the first, list<string>."""
NO_TASK = "(no task)"


@dataclass(frozen=True)
class EvaluatedModel:
    """Model that a suite measures."""

    path: str
    """HF folder or name."""
    answer: Callable[[ray.data.Dataset], ray.data.Dataset]
    """Takes rows with `messages`; returns them with `student_response` and `finish_reason` of every turn. Lazy."""


@dataclass(frozen=True)
class Summary:
    """Scores of a suite for one student."""

    mean: float | None
    """Mean of all scored items, rounded to 3 digits; None without any."""
    rows: int
    """Number of scored items."""
    by_category: dict[str, float]
    """Means by the column `task`, rounded to 3 digits."""
    missing: dict[str, int]
    """Number of items without a score, by reason."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    """Other figures of the suite by name, with their intervals (`paired.bootstrap`)."""


@dataclass(frozen=True)
class Forecast:
    """Work of measuring one student by a suite."""

    answers: int
    """Answers that the student writes, over all turns."""
    judge_prompts: Sequence[str] = ()
    """Text of each request to the judge."""
    judge_tokens: int | None = None
    """Guessed tokens of a reply of the judge; None is that of the run's own judging, 120."""


class Suite(ABC):
    """Evaluation suite of a run."""

    schema: ClassVar[pa.Schema] = SCORED
    """Columns of the results: those of SCORED, plus FOLLOW_UPS for several turns, plus any of the suite's own."""
    turns: ClassVar[int] = 1
    """Most user turns of an item. The student answers them one after the other, with its earlier answers as context."""
    judge: ClassVar[bool] = False
    """Whether `scored` asks the judge. Without it a run whose measure needs no judge has no client for the judge."""

    split: ClassVar[str | None] = None
    """Split of the rows that are items; None if all rows of the table are."""
    decontaminated: ClassVar[bool] = True
    """Whether the run filters training rows that overlap with an item. False if the items are rows of the run itself:
    they are not there yet when the run reads its seed data."""

    def __init__(self, run: Run, config: Config, layout: LoopLayout, roles: Roles, argument: str = "") -> None:
        """Takes as `argument` the text after the colon of `lm_eval:TASK,TASK`, empty for other suites."""
        self.run, self.config, self.layout, self.roles, self.argument = run, config, layout, roles, argument

    def check(self) -> list[str]:
        """Checks the suite's settings before anything is spent, without Ray, and returns warnings about them.

        Raises InputError that names the key, and says where a missing file can be had.
        """
        return []

    def forecast(self, answer: str) -> Forecast | None:
        """Returns the work of measuring one student if all of its answers were the text `answer`. Needs no Ray.

        None without an override: `tapir check` then says that the suite is not counted.
        """
        return None

    @abstractmethod
    def items(self) -> ray.data.Dataset:
        """Returns the items, one a row: unique `instruction_id`, `messages`, `status` ok, and what scoring needs.

        `response` is an optional reference answer and `task` an optional category.
        """

    @abstractmethod
    def scored(self, rows: ray.data.Dataset) -> ray.data.Dataset:
        """Returns the answered rows with `student_score`; lazy.

        An item that cannot be scored gets `status` failed and a `reason`. Ask the judge by `self.roles.ask`, so that
        its requests keep the run's limits, cache and budget.
        """

    def count(self) -> int:
        """Returns the number of items. With 0 the results are an empty table and no model is asked."""
        return int(self.items().count())

    def results(self, rows: ray.data.Dataset, model: EvaluatedModel) -> ray.data.Dataset:
        """Returns the results of `rows`, a subset of the items; lazy. A suite with its own harness overrides this."""
        return self.scored(model.answer(rows))

    def reports(self, row_id: str) -> bool:
        """Returns whether an item counts in the figures of one student. All items count in a comparison."""
        return True

    def summary(self, table: Table) -> Summary:
        """Returns the summary of a table of results. Raises StageError if the table is not finished."""
        scores: list[tuple[str, float]] = []
        for batch in self.run.scan(table, ["task", "status", "student_score"]):
            kept = batch.filter(pc.and_(pc.equal(batch["status"], OK), pc.is_valid(batch["student_score"])))
            scores += [(row["task"] or NO_TASK, row["student_score"]) for row in kept.to_pylist()]
        # Filtered items (`reasons`) and failed items (`errors`) both lack a score.
        manifest = self.run.manifest(table)
        return summarised(scores, {**manifest.reasons, **manifest.errors})


def summarised(
    scores: Iterable[tuple[str, float]],
    missing: dict[str, int] | None = None,
    metrics: dict[str, Metric] | None = None,
) -> Summary:
    """Returns the summary of (category, score) pairs."""
    by_category: dict[str, list[float]] = defaultdict(list)
    for category, score in scores:
        by_category[category].append(score)
    every = [score for of_category in by_category.values() for score in of_category]
    return Summary(
        mean=round(fmean(every), 3) if every else None,
        rows=len(every),
        by_category={name: round(fmean(found), 3) for name, found in sorted(by_category.items())},
        missing=missing or {},
        metrics=metrics or {},
    )
