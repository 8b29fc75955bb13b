"""Section: rows that were kept, filtered and failed, by reason."""

from __future__ import annotations

from collections import Counter

from tapir_ray.data.schemas import OK
from tapir_ray.report.html import charts
from tapir_ray.report.html.section import Figure, Grid, Section
from tapir_ray.report.html.view import View
from tapir_ray.run.layout import SHARDS, ShardLayout, Table
from tapir_ray.run.manifest import Manifest

KEPT = "kept"
MOST_REASONS = 7
"""Reasons with a colour of their own; the grid has all."""


def section(view: View) -> Section:
    """Returns the counts of each table by reason."""
    title = "Kept and filtered"
    says = "Rows that were kept, and those that were filtered or failed, by reason. No row is dropped without one."
    found = counts(view)
    if not found:
        return Section("filters", title, says, missing="No table of rows is finished yet.")
    total: Counter[str] = Counter()
    for one in found.values():
        total += one
    del total[KEPT]
    main = [reason for reason, _ in total.most_common(MOST_REASONS)]
    rows = []
    for table, one in found.items():
        rows.append({"table": table, "reason": KEPT, "rows": one[KEPT]})
        rows += [{"table": table, "reason": reason, "rows": one[reason]} for reason in main if one[reason]]
        if other := sum(count for reason, count in one.items() if reason not in (KEPT, *main)):
            rows.append({"table": table, "reason": "other reasons", "rows": other})
    reasons = [reason for reason, _ in total.most_common()]
    lines = [
        [table, sum(one.values()), one[KEPT], *(one[reason] for reason in reasons)] for table, one in found.items()
    ]
    grid = Grid("Rows by table and reason", ("table", "rows", KEPT, *reasons), lines)
    spec = charts.bars(rows, "table", "rows", "reason", "Rows kept and filtered", stacked=True)
    says_figure = "A bar for each table; the rows of a reason can be read below, or by tapir rows --where reason=…"
    return Section("filters", title, says, [Figure("Rows by reason", says_figure, spec, grid)])


def counts(view: View) -> dict[str, Counter[str]]:
    """Returns the rows of each finished table by reason, in the order of their making."""
    found: dict[str, Counter[str]] = {}
    if isinstance(view.layout, ShardLayout):
        tables = {"checked": [view.layout.checked], "compared": [view.layout.ingested]}
        shards = [view.layout.regenerated.of(f"{SHARDS}/{name}") for name in view.run.children(SHARDS)]
        tables["regenerated"] = shards
    else:
        assert view.loop is not None
        tables = {"seed data": [view.layout.ingested]}
        for number, one in enumerate(view.loop.rounds, 1):
            tables |= {f"round {number} {table.name}": [table] for table in (one.scored, one.written, one.training)}
        for number, control in enumerate(view.loop.controls, 1):
            if control.expansions is not None:
                tables[f"control {number} generated"] = [control.expansions.generated]
    for name, parts in tables.items():
        made = [manifest for table in parts if (manifest := _done(view, table)) is not None]
        if made:
            found[name] = sum((by_reason(manifest) for manifest in made), Counter())
    return found


def _done(view: View, table: Table) -> Manifest | None:
    return view.run.done(table)


def by_reason(manifest: Manifest) -> Counter[str]:
    """Counts the rows of a table: kept ones, filtered ones by reason, failed ones by reason."""
    failed = {f"failed: {reason}": count for reason, count in manifest.errors.items()}
    return Counter({KEPT: manifest.count(OK), **manifest.reasons, **failed})
