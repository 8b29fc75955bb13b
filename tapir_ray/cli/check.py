"""`tapir check CONFIG`: what is fine, risky or wrong, as a table, and an estimate of the whole run.

check(load("configs/demo.yaml"), "runs/demo", pilot=50, as_json=False)
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tapir_ray.api.checks import FAIL, PASS, UNKNOWN, WARN, Finding
from tapir_ray.api.forecast import forecast
from tapir_ray.cli.terminal import TERMINAL
from tapir_ray.config import Config
from tapir_ray.cost.estimate import Estimate
from tapir_ray.report.console import console

STYLES = {PASS: "green", WARN: "yellow", FAIL: "bold red", UNKNOWN: "dim"}
"""Colours on a terminal by status."""


def check(config: Config, run_dir: str, pilot: int = 0, as_json: bool = False) -> dict[str, Any]:
    """Checks a config, prints the estimate of its run to stdout (a table, or JSON), and returns it as JSON values.

    Raises InputError as `api.forecast.forecast` does, before anything is printed.
    """
    told: list[str] = []
    try:
        # Warnings are rows of the table.
        found = forecast(config, run_dir, pilot, TERMINAL if as_json else replace(TERMINAL, tell=told.append))
    except BaseException:
        for message in told:
            TERMINAL.tell(message)
        raise
    if as_json:
        print(json.dumps(found.report, indent=2))
    else:
        show_checks(found.checks, sys.stdout)
        show(found.estimate, found.report, sys.stdout)
    return found.report


def show_checks(findings: list[Finding], file: TextIO) -> None:
    """Prints a row for each finding: what was checked, how it stands, what was found, and what to do."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", ratio=3)
    table.add_column("what to do", ratio=2)
    for one in findings:
        table.add_row(one.name, Text(one.status, STYLES[one.status]), one.found, one.todo)
    console(file).print(table)


def show(estimate: Estimate, report: dict[str, Any], file: TextIO) -> None:
    """Prints the table of the forecast, the total, and the assumptions."""
    out = console(file)
    pilot = report["pilot_rows"]
    table = Table(title=f"{report['name']}: the whole run, by {f'a pilot of {pilot} rows' if pilot else 'a guess'}")
    for column in ("stage", "role"):
        table.add_column(column)
    for column in ("rows", "calls", "input tokens", "output tokens", "US dollars", "at most tokens", "dollars"):
        table.add_column(column, justify="right")
    for line in estimate.lines:
        table.add_row(
            line.stage,
            line.role,
            f"{line.rows:,.0f}",
            f"{line.size.calls:,.0f}",
            f"{line.size.input:,.0f}",
            f"{line.size.output:,.0f}",
            _dollars(line.cost),
            f"{line.most.tokens:,.0f}",
            _dollars(line.most_cost),
        )
    sizes = [line.size for line in estimate.lines]
    table.add_section()
    table.add_row(
        "total",
        "",
        "",
        f"{sum(size.calls for size in sizes):,.0f}",
        f"{sum(size.input for size in sizes):,.0f}",
        f"{sum(size.output for size in sizes):,.0f}",
        _dollars(estimate.cost()),
        f"{sum(line.most.tokens for line in estimate.lines):,.0f}",
        "",
    )
    out.print(table)
    between = (
        f"{report['tokens_low']:,} to {report['tokens_high']:,}" if pilot else f"at most {report['tokens_high']:,}"
    )
    out.print(f"{report['tokens']:,} tokens ({between})")
    if pilot:
        used = report["pilot_usage"].values()
        tokens = sum(role["input_tokens"] + role["output_tokens"] for role in used)
        cost = sum(role["cost"] for role in used)
        out.print(f"pilots have used {tokens:,.0f} tokens, {_dollars(cost)} dollars so far: {report['pilot_dir']}")
    if (work := report["control"]) is not None:
        out.print(
            f"control {work['control']}: {work['student_answers']:,} more answers of the student, and about "
            f"{work['training_tokens']:,} tokens to train on, as many as the rounds train on"
        )
    if (work := report["student"]) is not None and (work["samples"] or work["losses"]):
        out.print(
            f"scoring: at most {work['answers']:,} answers and {work['samples']:,} samples of the student "
            f"({work['tokens_at_most']:,} tokens), and losses of {work['losses']:,} rows"
        )
    for name, suite in report["suites"].items():
        if suite is not None:
            out.print(
                f"suite {name}: {suite['answers']:,} answers and {suite['judge_requests']:,} requests to the judge, "
                f"for {suite['students']} students"
            )
    for sentence in report["assumes"]:
        out.print(f"- {sentence}")


def _dollars(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.2f}" if value >= 1 else f"{value:.4f}"
