"""Table of the requests, tokens and cost of each role, for the end of a run or a regeneration."""

from __future__ import annotations

from rich.table import Table


def usage_table(usage: dict[str, dict[str, float]]) -> Table:
    """Returns a table of the requests, tokens and cost of each role."""
    table = Table(title="requests of the run, all attempts")
    table.add_column("role")
    for column in ("requests", "failed", "input tokens", "cached", "output tokens", "reasoning", "US dollars"):
        table.add_column(column, justify="right")
    names = ("requests", "failed", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
    for role, used in usage.items():
        unknown = f" (+ at most {used['unsettled_cost']:,.4f} unknown)" if used.get("unsettled_cost") else ""
        table.add_row(role, *(f"{used[name]:,.0f}" for name in names), f"{used['cost']:,.4f}{unknown}")
    return table
