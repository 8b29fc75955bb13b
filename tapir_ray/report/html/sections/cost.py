"""Section: time by stage, and requests and money by role, next to the forecast."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tapir_ray.cost.estimate import Estimate
from tapir_ray.errors import InputError
from tapir_ray.llm.budget.files import UsageFiles
from tapir_ray.llm.budget.ledger import Ledger
from tapir_ray.llm.roles import accounts_of
from tapir_ray.report.html import charts
from tapir_ray.report.html.section import Block, Figure, Grid, Notes, Section
from tapir_ray.report.html.view import View
from tapir_ray.report.summary import seconds_of


def section(view: View) -> Section:
    """Returns the seconds of each stage, and the usage by role and kind of request with the forecast by role."""
    title = "Time and money"
    says = "Time by stage and round, and requests, tokens and money by role and kind of request, next to the forecast."
    blocks: list[Block] = []
    if (time := _time(view)) is not None:
        blocks.append(time)
    else:
        blocks.append(Notes(["No stage is finished yet."]))
    blocks += _money(view)
    return Section("cost", title, says, blocks)


def _time(view: View) -> Figure | None:
    seconds = seconds_of(view.run)
    rows: list[dict[str, Any]] = [
        {"round": f"round {number}" if number else "start", "stage": stage, "minutes": round(took / 60, 3)}
        for number, stages in sorted(seconds.items())
        for stage, took in stages.items()
    ]
    if not rows:
        return None
    total = sum(row["minutes"] for row in rows)
    lines = [[row["round"], row["stage"], row["minutes"], f"{row['minutes'] / total:.0%}"] for row in rows]
    spec = charts.bars(rows, "round", "minutes", "stage", "Time by stage and round", stacked=True)
    says = f"{total:,.1f} minutes in stages, over all starts; the start of an engine is part of its stage."
    return Figure("Time by stage", says, spec, Grid("Minutes by stage", ("round", "stage", "minutes", "share"), lines))


def _money(view: View) -> list[Block]:
    ledger = Ledger(accounts_of(view.config), view.config.budget, UsageFiles(view.run.uri, attempt=0))
    lines: list[list[Any]] = []
    rows = []
    for role, kinds in ledger.by_kind().items():
        for kind, used in kinds.items():
            lines.append([role, kind, used["requests"], used["failed"], used["cached_requests"], used["input_tokens"],
                          used["output_tokens"], used["cost"]])  # fmt: skip
            rows.append({"role": role, "kind": kind, "tokens": used["tokens"], "cost": used["cost"]})
    if not lines:
        return [Notes(["No request was sent to a teacher or a judge."])]
    columns = ("role", "kind of request", "requests", "failed", "cached", "input tokens", "output tokens", "US dollars")
    grid = Grid("Requests by role and kind", columns, lines)
    paid = any(row["cost"] for row in rows)
    value = "cost" if paid else "tokens"
    spec = charts.bars(rows, "role", value, "kind", "Requests by role and kind", stacked=True,
                       unit="US dollars" if paid else "tokens")  # fmt: skip
    says = "US dollars by role and kind of request." if paid else "Tokens by role and kind: no role has a price."
    blocks: list[Block] = [Figure("Requests", says, spec, grid)]
    try:
        blocks.append(against_forecast(view.methods.forecast(view.config, view.run), ledger))
    except (InputError, OSError) as error:
        blocks.append(Notes([f"There is no forecast to compare with: {error}"]))
    return blocks


def against_forecast(estimate: Estimate, ledger: Ledger) -> Grid:
    """Returns tokens and money by role: what was used, what `tapir check` forecasts, and the bound."""
    expected: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for line in estimate.lines:
        for place, value in enumerate((line.size.calls, line.size.tokens, line.most.tokens, line.cost or 0.0)):
            expected[line.role][place] += value
    lines = []
    for role, used in ledger.snapshot().items():
        requests, tokens, most, cost = expected[role]
        spent = used["input_tokens"] + used["output_tokens"]
        lines.append([role, used["requests"], round(requests), spent, round(tokens), round(most),
                      f"{spent / tokens:.0%}" if tokens else None, used["cost"], cost])  # fmt: skip
    columns = ("role", "requests", "forecast", "tokens", "forecast tokens", "at most", "used of the forecast",
               "US dollars", "forecast dollars")  # fmt: skip
    return Grid("Used, and forecast for the whole run (tapir check, a guess)", columns, lines)
