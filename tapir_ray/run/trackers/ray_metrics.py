"""Tracker that exports the numbers of a run as Ray metrics, with the name, meaning and tags of each metric.

    metrics = RayMetrics()
    metrics.start(run)
    metrics.progress(stages, usage)          # every PROGRESS_S

Ray reports the value of a gauge once and then drops it, so `progress` sets all values each time. On the metrics port of
a node the names begin with `ray_`. The dashboard is `cluster/grafana/tapir.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tapir_ray.run.trackers.base import Numbers, RunInfo, Tracker

RUN = "run"
"""Tag of every metric."""

METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tapir_rows": ("Rows of a stage's table, all attempts.", ("stage",)),
    "tapir_rows_expected": ("Rows that a stage's table will have.", ("stage",)),
    "tapir_rows_failed": ("Rows of a stage that failed in this attempt.", ("stage",)),
    "tapir_seconds_without_row": ("Seconds since a running stage last wrote a row.", ("stage",)),
    "tapir_requests": ("Requests sent, all attempts of the run.", ("role", "kind")),
    "tapir_requests_failed": ("Questions without an answer, all attempts of the run.", ("role", "kind")),
    "tapir_tokens": ("Input and output tokens, all attempts of the run.", ("role", "kind")),
    "tapir_cost_dollars": ("US dollars by the prices of the config, all attempts of the run.", ("role", "kind")),
    "tapir_budget_dollars": ("US dollars that the run may spend.", ()),
    "tapir_alpha": ("Challenge share of a round's training tokens.", ("round",)),
    "tapir_threshold": ("Difficulty from which a round's rows are hard.", ("round",)),
    "tapir_difficulty": (
        "Mean difficulty of a round's reliable rows (MFD, unless the config names another measure).",
        ("round",),
    ),
    "tapir_score": ("Mean judge score of a role's answers to a round's candidates, 1 to 10.", ("round", "role")),
    "tapir_holdout_score": ("Mean judge score of the student on the holdout after a round, 1 to 10.", ("round",)),
}
"""Meaning and tags (besides `run`) by name. `stage` is the name of the stage in the progress line."""

OF_ROUND = ("alpha", "threshold", "difficulty", "holdout_score")
"""Numbers of a round with the same name in its events and, after `tapir_`, as a metric."""


class Metrics:
    """Values of the metrics of one process. A value stays until it is set to None or the process ends."""

    def __init__(self, run_id: str, gauge: Callable[..., Any] | None = None) -> None:
        """Uses `gauge` in place of Ray's Gauge if it is given."""
        self._run_id = run_id
        self._gauge = gauge
        self._gauges: dict[str, Any] = {}
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def set(self, name: str, value: float | None, **tags: object) -> None:
        """Sets the value of the series with these tags; None ends it. Raises ValueError for wrong tags."""
        if set(tags) != set(METRICS[name][1]):
            raise ValueError(f"{name} has the tags {METRICS[name][1]}, not {tuple(tags)}")
        key = (name, tuple((tag, str(tags[tag])) for tag in METRICS[name][1]))
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = float(value)

    def show(self) -> None:
        """Sends all values to Ray, which must be running."""
        # A copy, because other threads set values meanwhile.
        for (name, tags), value in list(self._values.items()):
            if name not in self._gauges:
                self._gauges[name] = self._made(name)
            self._gauges[name].set(value, {RUN: self._run_id, **dict(tags)})

    def _made(self, name: str) -> Any:
        from ray.util.metrics import Gauge

        meaning, tags = METRICS[name]
        return (self._gauge or Gauge)(name, meaning, (RUN, *tags))


class RayMetrics(Tracker):
    """Tracker for the numbers of rounds, the rows of stages, and the usage of each role. Ray must be running."""

    def __init__(self, gauge: Callable[..., Any] | None = None) -> None:
        self._gauge = gauge

    def start(self, run: RunInfo) -> None:
        self._metrics = Metrics(run.run_id, self._gauge)
        self._metrics.set("tapir_budget_dollars", run.config["budget"]["max_cost"])
        for kind, numbers, round_number in run.earlier:
            self.log(kind, numbers, round_number)

    def log(self, kind: str, numbers: Numbers, round_number: int | None = None, step: int | None = None) -> None:
        """Sets the metrics of a round. Numbers that are missing here keep their last value."""
        for name in OF_ROUND:
            if numbers.get(name) is not None:
                self._metrics.set(f"tapir_{name}", numbers[name], round=round_number)
        for role in ("teacher", "student"):
            if numbers.get(f"{role}_score") is not None:
                self._metrics.set("tapir_score", numbers[f"{role}_score"], round=round_number, role=role)

    def progress(self, stages: Sequence[Numbers], usage: Mapping[str, Mapping[str, Numbers]]) -> None:
        for stage in stages:
            tag = stage["stage"]
            self._metrics.set("tapir_rows", stage["rows"], stage=tag)
            self._metrics.set("tapir_rows_expected", stage["expected"], stage=tag)
            self._metrics.set("tapir_rows_failed", stage["failed"], stage=tag)
            self._metrics.set("tapir_seconds_without_row", stage["seconds_without_row"], stage=tag)
        for role, kinds in usage.items():
            for kind, used in kinds.items():
                self._metrics.set("tapir_requests", used["requests"], role=role, kind=kind)
                self._metrics.set("tapir_requests_failed", used["failed"], role=role, kind=kind)
                self._metrics.set("tapir_tokens", used["tokens"], role=role, kind=kind)
                self._metrics.set("tapir_cost_dollars", used["cost"], role=role, kind=kind)
        self._metrics.show()
