"""Suite `lm_eval:TASK,TASK`: tasks of lm-evaluation-harness, for the abilities that a student may forget.

The harness reads the student's folder itself and scores every item; the run keeps the items' values as rows. Prompts,
examples before a question and metrics are those of `lm_eval --model hf --tasks TASK`, by the package lm-eval.
"""

from __future__ import annotations

import functools
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import ray.data

from tapir_ray.cluster.ray_data import small_blocks
from tapir_ray.data.schemas import FAILED, conform
from tapir_ray.errors import InputError
from tapir_ray.evaluate.lm_eval_tasks import AGGREGATIONS, METRICS, SCHEMA, check_tasks, count, items, load_tasks
from tapir_ray.evaluate.paired import LEVEL, Metric, bootstrap
from tapir_ray.evaluate.suite import EvaluatedModel, Forecast, Suite, Summary
from tapir_ray.run.layout import Table

RESAMPLES = 100
"""Resamples for the interval of a figure that is not a mean, such as BLEU, which is slow to compute."""
OFFLINE = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class LmEvalSuite(Suite):
    """Tasks of lm-evaluation-harness. The score of an item is its first metric that is a mean over items."""

    schema: ClassVar[pa.Schema] = SCHEMA

    def check(self) -> list[str]:
        """Raises InputError for an unknown task, a missing package, and a student at an endpoint."""
        if not self.config.student.spec.local:
            raise InputError(
                "evaluate.suites: lm_eval reads the student's folder, and student.endpoint has none: leave it out"
            )
        check_tasks(self.argument, self.config.evaluate.lm_eval)
        return []

    def forecast(self, answer: str) -> Forecast:
        return Forecast(self.count())

    def items(self) -> ray.data.Dataset:
        settings = self.config.evaluate.lm_eval
        return ray.data.from_arrow(conform(items(self._tasks, settings.limit), SCHEMA))

    def count(self) -> int:
        return count(self._tasks, self.config.evaluate.lm_eval.limit)

    def results(self, rows: ray.data.Dataset, model: EvaluatedModel) -> ray.data.Dataset:
        """Returns the rows with the harness's metrics; a block of `resources.rows_per_block` rows is kept at a time."""
        from tapir_ray.evaluate.lm_eval_harness import Harness

        resources, claim = self.config.resources, self.config.resources.student
        rows = small_blocks(rows, resources.rows_per_block, resources.transform_cpus)
        return rows.map_batches(
            Harness,
            fn_constructor_kwargs={
                "model": model.path,
                "student": self.config.student,
                "argument": self.argument,
                "settings": self.config.evaluate.lm_eval,
                "threads": max(1, int(claim.cpus)),
                "gpu": claim.gpus > 0,
            },
            batch_format="pyarrow",
            batch_size=None,
            concurrency=(claim.fewest, claim.replicas),
            num_cpus=claim.cpus,
            num_gpus=claim.gpus,
            runtime_env={"env_vars": {name: os.environ[name] for name in OFFLINE if name in os.environ}},
        )

    def scored(self, rows: ray.data.Dataset) -> ray.data.Dataset:
        """Returns the rows: `results` scores them."""
        return rows

    def summary(self, table: Table) -> Summary:
        """Returns the mean score of all items and of each task; the metrics hold the harness's figures by task.

        Raises StageError if the table is not finished, and InputError if a figure that is not a mean needs a task that
        cannot be loaded any more.
        """
        found = super().summary(table)
        by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for batch in self.run.scan(table, ["task", "status", METRICS, AGGREGATIONS]):
            for row in batch.to_pylist():
                if row["status"] != FAILED and row[METRICS] is not None:
                    by_task[row["task"]].append(row)
        metrics: dict[str, Metric] = {}
        for name, rows in sorted(by_task.items()):
            values = [json.loads(row[METRICS]) for row in rows]
            prefix = f"{name}/" if len(by_task) > 1 else ""
            for metric, function in json.loads(rows[0][AGGREGATIONS]).items():
                column = [one[metric] for one in values if metric in one]
                metrics[prefix + metric] = self._figure(name, metric, function, column)
        return replace(found, metrics=metrics)

    def _figure(self, task: str, metric: str, function: str, values: Sequence[Any]) -> Metric:
        if function == "mean" and all(isinstance(value, int | float) for value in values):
            return bootstrap([float(value) for value in values], random_seed=self.config.random_seed)
        aggregate = self._tasks[task].aggregation()[metric.partition(",")[0]]
        return resampled(aggregate, values, self.config.random_seed)

    @functools.cached_property
    def _tasks(self) -> dict[str, Any]:
        return load_tasks(self.argument, self.config.evaluate.lm_eval)


def resampled(aggregate: Callable[[list[Any]], Any], values: Sequence[Any], random_seed: int) -> Metric:
    """Returns a figure of the harness with its percentile interval over items; a sample without a figure is left out.

    `aggregate` takes the values of the items, such as pairs (reference, prediction) for BLEU.
    """
    generator, drawn = np.random.default_rng(random_seed), []
    for _ in range(RESAMPLES):
        sample = [values[at] for at in generator.integers(0, len(values), len(values))]
        drawn.append(float(aggregate(sample)))
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    figures = (float(aggregate(list(values))), float(low), float(high))
    value, low, high = (round(figure, 4) for figure in figures)
    return Metric(value, low, high, len(values))
