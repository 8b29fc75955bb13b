"""Section: rows that overlap with the holdout or an evaluation set."""

from __future__ import annotations

from itertools import islice
from typing import Any

from tapir_ray.report.html.section import Block, Grid, Notes, Section
from tapir_ray.report.html.view import View
from tapir_ray.run.layout import Table
from tapir_ray.steps import contamination_list

MOST_LISTED = 50
MOST_CHARS = 160


def section(view: View) -> Section:
    """Returns the contaminated rows by set and rule, and some of them with the text that they share."""
    title = "Contamination"
    says = "Rows whose text is in the holdout or in an evaluation set: they are filtered and never trained on."
    tables = _tables(view)
    if not tables:
        return Section("contamination", title, says, missing="No rows have been compared with the holdout yet.")
    counts: list[list[Any]] = []
    listed: list[list[Any]] = []
    total = 0
    for name, table in tables:
        for by, rules in contamination_list.counts(view.run, table).items():
            counts += [[name, by, rule, rows] for rule, rows in rules.items()]
            total += sum(rules.values())
        listed += [
            [name, row["contaminated_by"], row["rule"], row["item_source"], _cut(row["shared_text"])]
            for batch in view.scan(table, ["contaminated_by", "rule", "item_source", "shared_text"])
            for row in islice(batch.to_pylist(), max(0, MOST_LISTED - len(listed)))
        ]
    names = ", ".join(name for name, _ in tables)
    if not counts:
        return Section("contamination", title, says, [Notes([f"None was found in {names}."])])
    blocks: list[Block] = [
        Grid("Contaminated rows by set and rule", ("rows of", "found in", "rule", "rows"), counts),
        Grid("Shared text", ("rows of", "found in", "rule", "source of the item", "longest shared text"), listed),
    ]
    if total > len(listed):
        blocks.append(Notes([f"{total - len(listed):,} more are in the tables named contamination."]))
    return Section("contamination", title, says, blocks)


def _tables(view: View) -> list[tuple[str, Table]]:
    """Returns (name of the rows, list of the contaminated ones) for each finished list."""
    found = [("the seed data", view.layout.contamination)]
    if view.loop is not None:
        found += [(f"round {n}", one.contamination) for n, one in view.loop.expanding.items()]
        found += [
            (f"control {n}", one.expansions.contamination)
            for n, one in enumerate(view.loop.controls, 1)
            if one.expansions is not None
        ]
    return [(name, table) for name, table in found if view.run.done(table) is not None]


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= MOST_CHARS else f"{text[: MOST_CHARS - 1]}…"
