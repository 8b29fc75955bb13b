"""Tracker that writes to the MLflow server or store of `MLFLOW_TRACKING_URI`, into the run that it created first.

    MLFLOW_TRACKING_URI=http://127.0.0.1:5000 tapir run mine.yaml --set trackers=[mlflow]

The experiment is `MLFLOW_EXPERIMENT_NAME`, or `tapir`. A tag of the run names the run of tapir-ray.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tapir_ray.errors import InputError
from tapir_ray.run.trackers.base import RunInfo
from tapir_ray.run.trackers.curves import Curves, Point

MOST_POINTS = 1_000
"""Points that a server takes in one request."""
MOST_CHARACTERS = 500
"""Characters of a parameter's value that every store takes."""
TAG = "tapir.run_id"
STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MLflow(Curves):
    """Curves in a run of MLflow."""

    name, package = "mlflow", "mlflow"

    def open(self, run: RunInfo) -> Mapping[str, int]:
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise InputError("MLFLOW_TRACKING_URI is not set: set it to the address of the server or store")
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient()
        experiment = _experiment(self._client, os.environ.get("MLFLOW_EXPERIMENT_NAME", "tapir"))
        found = self._client.search_runs([experiment], filter_string=f"tags.`{TAG}` = '{run.run_id}'", max_results=1)
        if not found:
            tags = {TAG: run.run_id, "tapir.run_folder": run.uri}
            self._run_id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
            for key, value in flat(run.config).items():
                self._client.log_param(self._run_id, key, value[:MOST_CHARACTERS])
            return {}
        self._run_id = found[0].info.run_id
        self._client.update_run(self._run_id, status="RUNNING")
        names = self._client.get_run(self._run_id).data.metrics
        history = {name: self._client.get_metric_history(self._run_id, name) for name in names}
        return {name: max(metric.step for metric in metrics) for name, metrics in history.items()}

    def write(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        for begin in range(0, len(points), MOST_POINTS):
            some = points[begin : begin + MOST_POINTS]
            self._client.log_batch(self._run_id, metrics=[Metric(p.name, p.value, now_ms, p.step) for p in some])

    def close(self, status: str) -> None:
        self._client.set_terminated(self._run_id, STATUS[status])


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Returns the values of nested sections as text, by their dotted keys."""
    found: dict[str, str] = {}
    for key, value in config.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": str(value)}
    return found


def _experiment(client: Any, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment is not None else client.create_experiment(name))
