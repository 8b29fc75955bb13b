"""Metrics of a run in Ray: exported again and again, by run, and only under tags that the dashboard knows."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import Any

import pytest

from tapir_ray.config import Budget, Limits, Price
from tapir_ray.llm.budget.ledger import Ledger
from tapir_ray.llm.budget.usage import Account, Count, Report
from tapir_ray.run.trackers import RunInfo
from tapir_ray.run.trackers.ray_metrics import METRICS, Metrics, RayMetrics


class Gauge:
    """Ray's gauge, which records its values."""

    made: dict[str, tuple[str, ...]]
    told: list[tuple[str, float, dict[str, str]]]

    def __init__(self, name: str, meaning: str, tags: tuple[str, ...]) -> None:
        assert meaning.endswith(".")
        assert name not in self.made, "a gauge is made once"
        self.made[name] = tags
        self.name = name

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.told.append((self.name, value, tags))


@pytest.fixture(autouse=True)
def forgotten() -> None:
    Gauge.made, Gauge.told = {}, []


def test_values_are_exported_until_they_end() -> None:
    metrics = Metrics("mine-1", Gauge)
    metrics.set("tapir_rows", 3, stage="classify")
    metrics.set("tapir_rows", 5, stage="classify")
    metrics.set("tapir_rows", 0, stage="round 1 score")
    for _ in range(2):
        metrics.show()
    rows = [("tapir_rows", 5.0, {"run": "mine-1", "stage": "classify"}),
            ("tapir_rows", 0.0, {"run": "mine-1", "stage": "round 1 score"})]  # fmt: skip
    assert Gauge.told == rows * 2
    assert Gauge.made == {"tapir_rows": ("run", "stage")}
    metrics.set("tapir_rows", None, stage="classify")
    metrics.show()
    assert Gauge.told[4:] == rows[1:]


def test_a_series_with_other_tags_is_refused() -> None:
    with pytest.raises(ValueError, match="tapir_rows has the tags"):
        Metrics("r").set("tapir_rows", 1, table="t")
    with pytest.raises(KeyError):
        Metrics("r").set("tapir_lines", 1)


def test_names_and_tags_are_valid_for_prometheus() -> None:
    for name, (_, tags) in METRICS.items():
        assert all(re.fullmatch(r"[a-z][a-z_]*", word) for word in (name, *tags))


def info(**settings: Any) -> RunInfo:
    earlier = settings.pop("earlier", [])
    return RunInfo("r", "mine", "/runs/mine", 1, {"budget": {"max_cost": settings.pop("max_cost", None)}}, earlier)


def told() -> dict[tuple[str, ...], float]:
    """Returns the last value of each series by name and tags, without the tag of the run."""
    return {(name, *(value for tag, value in tags.items() if tag != "run")): value for name, value, tags in Gauge.told}


def test_numbers_of_a_round_are_exported_until_they_are_logged_again() -> None:
    tracker = RayMetrics(Gauge)
    tracker.start(info(earlier=[("plan", {"alpha": 0.3, "threshold": 2.0, "teacher_score": 8.0, "hard": 7}, 1)]))
    tracker.log("plan", {"alpha": None, "difficulty": None}, 1)
    tracker.log("mix", {"alpha": 0.25}, 1)
    tracker.log("holdout", {"holdout_score": 4.0}, 0)
    tracker.log("stage", {"stage": "score", "seconds": 3.0}, 1)
    tracker.progress([], {})
    assert told() == {
        ("tapir_alpha", "1"): 0.25,
        ("tapir_threshold", "1"): 2.0,
        ("tapir_score", "1", "teacher"): 8.0,
        ("tapir_holdout_score", "0"): 4.0,
    }


def test_rows_of_a_stage_are_exported() -> None:
    tracker = RayMetrics(Gauge)
    tracker.start(info(max_cost=5.0))
    running = {"stage": "classify", "rows": 4, "expected": 10, "failed": 1, "seconds_without_row": 3.0}
    read = {"stage": "read", "rows": 7, "expected": None, "failed": 0, "seconds_without_row": None}
    tracker.progress([read, running], {})
    assert told() == {
        ("tapir_budget_dollars",): 5.0,
        ("tapir_rows", "read"): 7,
        ("tapir_rows_failed", "read"): 0,
        ("tapir_rows", "classify"): 4,
        ("tapir_rows_expected", "classify"): 10,
        ("tapir_rows_failed", "classify"): 1,
        ("tapir_seconds_without_row", "classify"): 3.0,
    }
    Gauge.told.clear()
    tracker.progress([{**running, "rows": 10, "seconds_without_row": None}], {})
    assert ("tapir_seconds_without_row", "classify") not in told(), "an ended stage waits for no row"


def test_usage_is_exported_by_role_and_kind_with_its_cost() -> None:
    tracker = RayMetrics(Gauge)
    tracker.start(info())
    ledger = Ledger({"teacher": Account("teacher", Limits(), Price(input=1.0, output=2.0))}, Budget())
    counts = Count("expand", 2, 100, 0, 50), Count("label", 1, 10, failed=1)
    ledger.record(Report("w", 1, [("teacher", count) for count in counts], []))
    tracker.progress([], ledger.by_kind())
    found = told()
    assert found["tapir_tokens", "teacher", "expand"] == 150
    assert found["tapir_cost_dollars", "teacher", "expand"] == pytest.approx(200 / 1e6)
    assert found["tapir_requests_failed", "teacher", "label"] == 1
    assert found["tapir_requests", "teacher", "label"] == 1


@pytest.mark.slow
def test_rays_port_shows_values_as_long_as_they_are_exported(ray_local: None) -> None:
    """Ray forgets a value once it has reported it: a value exported only once would be missing after two of its
    intervals."""
    import ray

    metrics = Metrics("on-a-port")
    metrics.set("tapir_rows", 42, stage="a stage")
    port = ray.nodes()[0]["MetricsExportPort"]
    deadline, seen = time.monotonic() + 90, list[float]()
    while time.monotonic() < deadline and (not seen or seen[-1] - seen[0] < 25):
        metrics.show()
        if "ray_tapir_rows{" in (line := _line(port)) and line.endswith(" 42.0"):
            seen.append(time.monotonic())
        else:
            assert not seen, "the value was shown before and is missing"
        time.sleep(2)
    assert seen and seen[-1] - seen[0] >= 25


def _line(port: Any) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("ray_tapir_rows{") and 'run="on-a-port"' in line), "")
