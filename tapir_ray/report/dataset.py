"""Prints the result of a regeneration."""

from __future__ import annotations

from typing import Any, TextIO

from rich.table import Table

from tapir_ray.report.console import console
from tapir_ray.report.usage_table import usage_table
from tapir_ray.steps.dataset_card import Counts, left_out


def print_made(made: dict[str, Any], file: TextIO) -> None:
    """Prints the counts of rows, the requests with their cost, and the path of the dataset."""
    out = console(file)
    rows = Table("rows", title=f"{made['name']}: {made['rows']:,} rows read, in {made['shards']} shards")
    rows.add_column("number", justify="right")
    found = Counts(made["rows"], made["ok"], made["filtered"], made["failed"])
    for name, count in [("in the dataset", found.ok), *left_out(found)]:
        rows.add_row(name, f"{count:,}")
    out.print(rows)
    out.print(usage_table(made["usage"]))
    out.print(f"dataset: {made['dataset']}", soft_wrap=True)
