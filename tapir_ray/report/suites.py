"""Results of the suites in `summary.json` and in the output: every student, and the last one against the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tapir_ray.config.evaluate import CONTROL, HOLDOUT_SUITE, INITIAL, LAST
from tapir_ray.evaluate.comparison import compared, in_lines
from tapir_ray.evaluate.results import entry
from tapir_ray.evaluate.suite import Suite
from tapir_ray.run.layout import LoopLayout
from tapir_ray.run.layout import Table as RunTable
from tapir_ray.run.run import Run

WHO = {LAST: "the last student", INITIAL: "the initial student", CONTROL: "the control"}


def suites_entry(run: Run, layout: LoopLayout, suites: Mapping[RunTable, Suite]) -> dict[str, Any]:
    """Returns the results by suite as JSON values; a suite without finished results is left out.

    A suite has the results of the last student (`results.entry`), and if they were measured `initial` and `control`
    with theirs, and `over_initial` and `over_control` with the comparison (`comparison.compared`).
    """
    made = {}
    for tables, suite in zip(layout.suites, suites.values(), strict=True):
        done = {student: table for student, table in tables.students().items() if run.done(table)}
        if LAST not in done:
            continue
        found = {student: entry(run, suite, table) for student, table in done.items()}
        others = {student: table for student, table in done.items() if student != LAST}
        seed = suite.config.random_seed
        made[tables.last.name] = {
            **found.pop(LAST),
            **found,
            **{f"over_{student}": compared(run, tables.last, run, table, seed) for student, table in others.items()},
        }
    return made


def print_suites(found: Mapping[str, Any], out: Console, shown: Mapping[str, str] = WHO) -> None:
    """Prints the results by suite, without the holdout's, which are printed by round; `shown` names the students."""
    for name, results in found.items():
        if name != HOLDOUT_SUITE:
            print_suite(name, results, out, shown)


def print_suite(name: str, results: Mapping[str, Any], out: Console, shown: Mapping[str, str] = WHO) -> None:
    """Prints a suite: means by category, other metrics with their intervals, what is missing, and comparisons."""
    entries = {student: results if student == LAST else results.get(student) for student in shown}
    students = {student: one for student, one in entries.items() if one is not None}
    whose = shown[LAST] if len(students) == 1 else "each student"
    table = Table(title=f"{name}: mean score of {whose} on {results['rows']} items")
    table.add_column("task")
    for student in students:
        table.add_column("score" if len(students) == 1 else shown[student].removeprefix("the "), justify="right")
    for category in sorted({category for one in students.values() for category in one["by_category"]}):
        table.add_row(category, *(number(one["by_category"].get(category)) for one in students.values()))
    table.add_row("all", *(number(one["mean"]) for one in students.values()), style="bold")
    for metric in dict.fromkeys(metric for one in students.values() for metric in one.get("metrics", ())):
        table.add_row(metric, *(_metric(one["metrics"].get(metric)) for one in students.values()))
    out.print(table)
    for student, one in students.items():
        for line in _notes(one):
            out.print(f"{name}, {shown[student]}: {line}", soft_wrap=True)
    for student in students:
        if student != LAST:
            for line in in_lines(results.get(f"over_{student}"), shown[LAST], shown[student]):
                out.print(f"{name}: {line}", soft_wrap=True)


def _notes(one: Mapping[str, Any]) -> list[str]:
    notes = []
    if (score := one.get("score")) is not None:
        took = "" if one["seconds"] is None else f"; {one['seconds']:,.0f} s"
        notes.append(f"{_metric(score)} on {score['rows']} items{took}")
    if missing := sum(one["missing"].values()):
        reasons = ", ".join(f"{reason} {count}" for reason, count in one["missing"].items())
        notes.append(f"{missing} items have no score ({reasons})")
    if one.get("contaminated"):
        without = one["without_contaminated"]
        rest = "" if without is None else f"; without them {_metric(without)} on {without['rows']} items"
        notes.append(f"it was trained on the text of {one['contaminated']} items{rest}")
    return notes


def number(value: float | None) -> str:
    """Returns a score with two digits, three below 1.5; a dash for None."""
    return "–" if value is None else f"{value:.3f}" if abs(value) < 1.5 else f"{value:.2f}"


def _metric(metric: Mapping[str, Any] | None) -> str:
    return "–" if metric is None else f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
