"""Tokens and dollars of a run in words, for the line of a stage."""

from __future__ import annotations


def spending(usage: dict[str, dict[str, float]], before: dict[str, dict[str, float]]) -> list[str]:
    """Returns texts for the line: tokens since `before` and, if anything has a price, dollars of the run by role."""
    tokens = sum(_tokens(role) for role in usage.values()) - sum(_tokens(role) for role in before.values())
    parts = [f"{tokens:,.0f} tokens"] if tokens else []
    costs = {name: role.get("cost", 0.0) for name, role in usage.items()}
    if any(costs.values()):
        parts.append("  ".join(f"{name} ${cost:,.4g}" for name, cost in costs.items()))
    return parts


def _tokens(role: dict[str, float]) -> float:
    return role.get("input_tokens", 0) + role.get("output_tokens", 0)
