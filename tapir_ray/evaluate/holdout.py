"""Suite `holdout`: held-out rows of the seed data, scored by the judge against the teacher's answers."""

from __future__ import annotations

import functools

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.curriculum.difficulty import with_difficulty
from tapir_ray.curriculum.measures import Measure, load_measure
from tapir_ray.data.schemas import HOLDOUT, OK, SCORED, conform
from tapir_ray.evaluate.holdout_scores import read_scores, selects
from tapir_ray.evaluate.suite import EvaluatedModel, Suite, Summary, summarised
from tapir_ray.run.layout import Table
from tapir_ray.transforms.answer import with_lengths
from tapir_ray.transforms.judge import judge

HELD = ["split", "status", "response"]
"""Columns that decide whether a row is an item of the suite."""


class HoldoutSuite(Suite):
    """Held-out rows with a teacher's answer. The summary covers the half that does not select the best round.

    The judge is asked if the run's difficulty measure needs it, so `judge` stays False.
    """

    split = HOLDOUT
    decontaminated = False

    def items(self) -> ray.data.Dataset:
        cpus = self.config.resources.transform_cpus
        rows = self.run.read(self.layout.instructions, transform_cpus=cpus)
        return rows.map_batches(_held, batch_format="pyarrow", batch_size=None, num_cpus=cpus)

    def count(self) -> int:
        batches = self.run.scan(self.layout.instructions, HELD)
        return sum(len(_held(pa.Table.from_batches([batch]))) for batch in batches)

    def results(self, rows: ray.data.Dataset, model: EvaluatedModel) -> ray.data.Dataset:
        """Returns the rows with `difficulty` and what its measure needs: answers and judge's scores, or neither."""
        rows = super().results(rows, model) if self._needs.asks_student else rows
        measured = functools.partial(with_measured, spec=self.config.curriculum.difficulty.measure)
        cpus = self.config.resources.transform_cpus
        return rows.map_batches(measured, batch_format="pyarrow", batch_size=None, num_cpus=cpus)

    def scored(self, rows: ray.data.Dataset) -> ray.data.Dataset:
        if self._needs.judge:
            return judge(rows, self.config, self.roles, self.config.random_seed)
        cpus = self.config.resources.transform_cpus
        return rows.map_batches(with_lengths, batch_format="pyarrow", batch_size=None, num_cpus=cpus)

    @property
    def _needs(self) -> Measure:
        return load_measure(self.config.curriculum.difficulty.measure)

    def summary(self, table: Table) -> Summary:
        manifest = self.run.manifest(table)
        scores = [score for row_id, score in read_scores(self.run, table).items() if self.reports(row_id)]
        return summarised(scores, {**manifest.reasons, **manifest.errors})

    def reports(self, row_id: str) -> bool:
        """Returns whether the row does not select the best round; all rows count for a model without rounds."""
        settings = self.config
        return settings.evaluate.only or not selects(row_id, settings.random_seed, settings.holdout.select_share)


def with_measured(rows: pa.Table, spec: str) -> pa.Table:
    """Returns `rows` as SCORED with `difficulty` by the measure `spec`.

    Holdout rows have no student samples: the measure gets them as nulls, as in `rounds/NN/scored`.
    """
    return conform(with_difficulty(conform(rows, load_measure(spec).schema), spec), SCORED)


def _held(batch: pa.Table) -> pa.Table:
    keep = pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK))
    return conform(batch.filter(pc.and_(keep, pc.is_valid(batch["response"]))), SCORED)
