"""Expressions of the dashboard: each names an exported metric and its tags, and every metric is on the dashboard."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tapir_ray.run.trackers.ray_metrics import METRICS, OF_ROUND, RUN
from tests.deploy.files import CLUSTER, ROOT

DASHBOARD = json.loads((CLUSTER / "grafana/tapir.json").read_text())
FUNCTIONS = {"max", "sum", "by", "deriv"}
WORD = re.compile(r"[A-Za-z_]\w*")
MATCHER = re.compile(r"\{([^{}]*)\}")
GROUPING = re.compile(r"\bby \(([^()]*)\)")


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def unknown(expression: str) -> list[str]:
    """Returns the metrics and tags of an expression that the code does not export."""
    bare = MATCHER.sub("", GROUPING.sub("by", re.sub(r"\[\w+\]", "", expression)))
    metrics = [word for word in WORD.findall(bare) if word not in FUNCTIONS]
    names = {f"ray_{name}" for name in METRICS}
    tags = {RUN, *(tag for metric in metrics if metric in names for tag in METRICS[metric.removeprefix("ray_")][1])}
    asked = [tag.strip() for group in GROUPING.findall(expression) for tag in group.split(",")]
    asked += [
        re.split(r"=~|!~|!=|=", pair)[0].strip() for group in MATCHER.findall(expression) for pair in group.split(",")
    ]
    return [*(metric for metric in metrics if metric not in names), *(tag for tag in asked if tag not in tags)]


def set_in_code() -> set[str]:
    """Returns the names given by calls of `.set("tapir_…", …)` anywhere in the package."""
    found: set[str] = set()
    for file in (ROOT / "tapir_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "set"
                and node.args
            ):
                first = node.args[0]
                if isinstance(first, ast.Constant) and str(first.value).startswith("tapir_"):
                    found.add(str(first.value))
    return found | {f"tapir_{name}" for name in OF_ROUND}


@pytest.mark.parametrize("expression", list(expressions()))
def test_an_expression_names_known_metrics_and_tags(expression: str) -> None:
    assert not unknown(expression)


def test_planted_errors_are_found() -> None:
    for wrong, word in {
        'max by (run, stage) (ray_tapir_row{run=~"$run"})': "ray_tapir_row",
        'max by (run, rolle) (ray_tapir_tokens{run=~"$run"})': "rolle",
        'ray_tapir_alpha{stage="x"}': "stage",
        "rate(ray_tapir_rows[5m])": "rate",
    }.items():
        assert unknown(wrong)[0] == word


def test_every_metric_is_set_and_on_the_dashboard() -> None:
    assert set_in_code() == set(METRICS)
    assert {name for name in METRICS if any(f"ray_{name}{{" in expression for expression in expressions())} == set(
        METRICS
    )


def test_legends_name_tags_of_their_expression() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            (*_, grouping) = [group for group in GROUPING.findall(target["expr"])][:1]
            tags = {tag.strip() for tag in grouping.split(",")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= tags, panel["title"]


def test_panels_do_not_overlap_and_use_the_chosen_data_source() -> None:
    taken: set[tuple[int, int]] = set()
    ids: list[Any] = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
