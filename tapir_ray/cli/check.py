"""`tapir check CONFIG`: the checks of `tapir run` before it spends anything, and an estimate of the whole run.

check(load("configs/demo.yaml"), "runs/demo", pilot=50, as_json=False)
"""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

from rich.table import Table

from tapir_ray.api.forecast import forecast
from tapir_ray.cli.terminal import TERMINAL
from tapir_ray.config import Config
from tapir_ray.cost.estimate import Estimate
from tapir_ray.report.console import console


def check(config: Config, run_dir: str, pilot: int = 0, as_json: bool = False) -> dict[str, Any]:
    """Checks a config, prints the estimate of its run to stdout (a table, or JSON), and returns it as JSON values.

    Raises InputError as `api.forecast.forecast` does, before anything is printed.
    """
    found = forecast(config, run_dir, pilot, TERMINAL)
    if as_json:
        print(json.dumps(found.report, indent=2))
    else:
        show(found.estimate, found.report, sys.stdout)
    return found.report


def show(estimate: Estimate, report: dict[str, Any], file: TextIO) -> None:
    """Prints the table, the total, a warning if the budget is too small, and the assumptions."""
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
    out.print(*_beyond(report), sep="\n", end="")
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
    for name, suite in report["suites"].items():
        if suite is not None:
            out.print(
                f"suite {name}: {suite['answers']:,} answers and {suite['judge_requests']:,} requests to the judge, "
                f"for {suite['students']} students"
            )
    if (share := report["over_length_share"]) is not None:
        fate = "truncated" if report["over_length"] == "truncate" else "filtered"
        out.print(f"{share:.1%} of the answered seed rows are longer than train.sequence_length and will be {fate}")
    for sentence in report["assumes"]:
        out.print(f"- {sentence}")


def _beyond(report: dict[str, Any]) -> list[str]:
    budget, cost = report["budget"], report["cost"]
    found = []
    if budget["max_tokens"] is not None and report["tokens"] > budget["max_tokens"]:
        found.append(f"budget.max_tokens {budget['max_tokens']:,} will stop the run before its end\n")
    if budget["max_cost"] is not None and cost is not None and cost > budget["max_cost"]:
        found.append(f"budget.max_cost {budget['max_cost']:,} will stop the run before its end\n")
    return found


def _dollars(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.2f}" if value >= 1 else f"{value:.4f}"
