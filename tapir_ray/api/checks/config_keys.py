"""Checks of the config alone: what is valid but risky, and the budget."""

from __future__ import annotations

from collections.abc import Iterator

from tapir_ray.api.checks.base import PASS, WARN, Finding, Subject

WARNING = "warning: "


def settings(subject: Subject) -> Iterator[Finding]:
    """Yields a row for each warning about the config, with what it says to change; one row if there is none."""
    for message in subject.messages:
        text, _, advice = message.removeprefix(WARNING).partition("; ")
        yield Finding("config", WARN, text, advice)
    if not subject.messages:
        yield Finding("config", PASS, "no contradiction and nothing risky")


def budget(subject: Subject) -> Iterator[Finding]:
    """Yields whether the forecast fits into the budget."""
    limits, tokens, cost = subject.config.budget, subject.report["tokens"], subject.report["cost"]
    if limits.max_tokens is None and limits.max_cost is None:
        yield Finding("budget", PASS, "none is set: nothing stops the run before its end")
    if limits.max_tokens is not None:
        yield _limit("budget.max_tokens", limits.max_tokens, tokens, "tokens")
    if limits.max_cost is not None:
        if cost is None:
            yield Finding("budget.max_cost", WARN, "a price is unknown", "set the price of the role in the config")
        else:
            yield _limit("budget.max_cost", limits.max_cost, cost, "dollars")


def _limit(key: str, limit: float, expected: float, unit: str) -> Finding:
    decimals = 2 if unit == "dollars" else 0
    most, needed = f"{limit:,.{decimals}f}", f"{expected:,.{decimals}f}"
    if expected <= limit:
        return Finding(key, PASS, f"{needed} of {most} {unit}")
    stops = "it will stop the run before its end"
    return Finding(key, WARN, f"{most} {unit} of {needed} by the forecast: {stops}", f"raise {key}, or make less")
