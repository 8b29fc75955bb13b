"""How many calls and tokens a run will need: its rows by stage, times the size of what is asked for a row.

    sizes = guessed(config, seed, taxonomy)                # or measured by `pilot.py`
    estimate = method_of(config).estimate(config, seed, taxonomy, sizes)

Sizes are by what is asked of a row: `label`, `fill` (an answer of the seed data), `score_seed`, `score_holdout`,
`score_new` (a generated row), `expand`, `respond`, and of a regeneration `rewrite` (the file's own answer) and `prefer`
(two answers compared). The bound takes every attempt, every token that a request may answer
with, and a token for each byte that is sent; it is what a budget of the same size would never stop.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from tapir_ray.config import Config, Price
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.sizes import Size, Sizes
from tapir_ray.curriculum.quotas import apportion
from tapir_ray.curriculum.tasks import Taxonomy

Z = 1.96
"""For an interval of 95 %."""
FEWEST = 3
"""Rows of a task below which its size is that of all tasks."""


@dataclass(frozen=True)
class Line:
    """A stage's requests to a role, in the whole run."""

    stage: str
    role: str
    rows: float
    size: Size
    most: Size
    error: float
    """Standard error of the tokens; 0 where nothing was measured."""
    cost: float | None
    most_cost: float | None


@dataclass(frozen=True)
class Estimate:
    lines: list[Line]

    def tokens(self) -> tuple[float, float, float]:
        """(estimate, low, high): with a pilot an interval of 95 %, else the high end is the bound and the low 0."""
        total = sum(line.size.tokens for line in self.lines)
        most = sum(line.most.tokens for line in self.lines)
        spread = Z * sum(line.error**2 for line in self.lines) ** 0.5
        return (total, max(0.0, total - spread), min(most, total + spread)) if spread else (total, 0.0, most)

    def cost(self) -> float | None:
        """US dollars; None where a role's price is not known."""
        costs = [line.cost for line in self.lines]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


def estimated(config: Config, seed: Seed, taxonomy: Taxonomy, sizes: Sizes) -> Estimate:
    """The requests of the whole run, all rounds."""
    lines: list[Line] = []
    held = sum(seed.held_out(config).values())
    settings, rows = config.classify, seed.usable
    if settings.by == "teacher":
        _add(lines, config, sizes, "label the seed data", "label", sizes.tasks, rows)
    elif settings.by == "deberta" and settings.label_rows:
        _add(lines, config, sizes, "label a sample", "label", sizes.tasks, min(settings.label_rows, rows - held))
    if config.seed_data.responses != "keep":
        filled = seed.unanswered if config.seed_data.responses == "fill" else rows
        _add(lines, config, sizes, "answer the seed data", "fill", sizes.tasks, filled)
    old = {task: share * (rows - held) for task, share in sizes.tasks.items()}
    new: dict[str | None, float] = dict.fromkeys(old, 0.0)
    for number in range(1, config.curriculum.rounds + 1):
        chosen = _apportioned(config.score.max_rows, {task: old[task] + new[task] for task in old}, taxonomy)
        of_new = {task: n * new[task] / max(1e-9, old[task] + new[task]) for task, n in chosen.items()}
        of_old = {task: n - of_new[task] for task, n in chosen.items()}
        name = f"round {number}"
        _add(lines, config, sizes, f"{name} score", "score_seed", of_old)
        _add(lines, config, sizes, f"{name} score", "score_holdout", {None: 1.0}, held)
        _add(lines, config, sizes, f"{name} score", "score_new", of_new)
        draws = _apportioned(config.expand.size, dict.fromkeys(old, float(config.expand.size)), taxonomy)
        _add(lines, config, sizes, f"{name} expand", "expand", draws)
        kept = {task: n * sizes.expanded * _fresh(sizes, old, new, draws, task) for task, n in draws.items()}
        _add(lines, config, sizes, f"{name} respond", "respond", kept, drawn=sum(draws.values()))
        new = {task: new[task] + sizes.accepted * kept.get(task, 0.0) for task in new}
    _add(lines, config, sizes, "evaluate", "score_holdout", {None: 1.0}, held)
    return Estimate(_merged(lines))


def estimated_regeneration(config: Config, seed: Seed, taxonomy: Taxonomy, sizes: Sizes) -> Estimate:
    """The requests of a regeneration's operations, for any taxonomy.

    As if no row were filtered but by `balanced_rows`, and answers were missing in each task alike.
    """
    settings = config.regenerate
    assert settings is not None
    lines: list[Line] = []
    rows, replaces = seed.usable, config.seed_data.responses == "replace"
    left = min(settings.balanced_rows or rows, rows)
    answered = left * (1 - seed.unanswered / rows)
    most_answered, most_unanswered = min(left, rows - seed.unanswered), min(left, seed.unanswered)
    if settings.does("classify") and config.classify.by == "teacher":
        _add(lines, config, sizes, "classify", "label", sizes.tasks, rows)
    if settings.does("answer"):
        asked, most = (left, left) if replaces else (left - answered, most_unanswered)
        _add(lines, config, sizes, "answer", "fill", sizes.tasks, asked, most)
    if settings.does("rewrite") and not replaces:
        _add(lines, config, sizes, "rewrite", "rewrite", sizes.tasks, answered, most_answered)
    if settings.does("judge"):
        _add(lines, config, sizes, "judge", "prefer", sizes.tasks, answered, most_answered)
    return Estimate(_merged(lines))


def _fresh(
    sizes: Sizes,
    old: Mapping[str | None, float],
    new: Mapping[str | None, float],
    draws: Mapping[str | None, float],
    task: str | None,
) -> float:
    """Share of a task's draws that repeat nothing: if generated rows lie as dense as the seed data, it falls with the
    rows there are, on average half of the round's own among them.
    """
    before = sum(old.values())
    rows = before + sum(new.values()) + sizes.expanded * sum(draws.values()) / 2
    return float(sizes.fresh ** (rows / before)) if before else sizes.fresh


def _apportioned(total: float, room: Mapping[str | None, float], taxonomy: Taxonomy) -> dict[str | None, float]:
    """Rows by task, by the tasks' weights under what there is; a single unnamed task takes what it holds."""
    counts = {task: round(rows) for task, rows in room.items() if task is not None}
    if not counts or taxonomy.from_seed:
        available = sum(room.values())
        return {task: min(total, available) * rows / max(1e-9, available) for task, rows in room.items()}
    weights = taxonomy.effective_weights(counts)
    capacity = {task: counts[task] for task in weights}
    shares = apportion(min(round(total), sum(capacity.values())), capacity, weights)
    return {task: float(shares.get(task, 0)) if task is not None else 0.0 for task in room}


def _add(
    lines: list[Line],
    config: Config,
    sizes: Sizes,
    stage: str,
    asked: str,
    by_task: Mapping[str | None, float],
    rows: float | None = None,
    drawn: float | None = None,
) -> None:
    """One line for each role that `asked` needs: `by_task` are rows, or shares of `rows`."""
    by_task = by_task if rows is None else {task: share * rows for task, share in by_task.items()}
    count = sum(by_task.values())
    if count <= 0 and not drawn:
        return
    endpoints = {"teacher": config.teacher, "judge": config.judge_endpoint, "student": config.student.endpoint}
    for role, most in sizes.most[asked].items():
        size, variance = _expected(sizes.rows[asked], role, by_task)
        if drawn and sizes.measured:
            share = min(1.0, count / drawn)
            variance += (drawn * size.tokens / max(1e-9, count)) ** 2 * share * (1 - share) / sizes.measured
        bound = most.times(drawn or count)
        endpoint = endpoints[role]
        price = endpoint.known_price if endpoint is not None else None
        lines.append(
            Line(
                stage,
                role,
                count,
                size,
                bound,
                variance**0.5 if sizes.measured else 0.0,
                None if price is None else _dollars(size, price.at(_input_of_one(size))),
                None if price is None else _dollars(bound, price.dearest(_input_of_one(bound))),
            )
        )


def _input_of_one(size: Size) -> int:
    """The input tokens of a request, on average, by which its tier of a price is chosen."""
    return round(size.input / max(1.0, size.calls))


def _dollars(size: Size, price: Price) -> float:
    return (size.input * price.input + size.output * price.output) / 1e6 + size.calls * price.request


def _expected(
    measured: Iterable[tuple[str | None, dict[str, Size]]], role: str, by_task: Mapping[str | None, float]
) -> tuple[Size, float]:
    """(size of the rows of `by_task`, variance of its tokens), each task by its own rows where there are a few."""
    everything = [(task, sizes.get(role, Size())) for task, sizes in measured]
    total, variance = Size(), 0.0
    for task, rows in by_task.items():
        own = [size for other, size in everything if other == task]
        own = own if len(own) >= FEWEST else [size for _, size in everything]
        if not own or not rows:
            continue
        total += sum(own, Size()).times(rows / len(own))
        spread = statistics.variance(size.tokens for size in own) if len(own) > 1 else 0.0
        variance += rows * rows * spread / len(own)
    return total, variance


def _merged(lines: list[Line]) -> list[Line]:
    """Lines of one stage and role put together."""
    merged: dict[tuple[str, str], Line] = {}
    for line in lines:
        key = (line.stage, line.role)
        before = merged.get(key)
        merged[key] = line if before is None else _sum(before, line)
    return list(merged.values())


def _sum(one: Line, two: Line) -> Line:
    cost = None if one.cost is None or two.cost is None else one.cost + two.cost
    most_cost = None if one.most_cost is None or two.most_cost is None else one.most_cost + two.most_cost
    error = (one.error**2 + two.error**2) ** 0.5
    return Line(
        one.stage, one.role, one.rows + two.rows, one.size + two.size, one.most + two.most, error, cost, most_cost
    )


# Guesses from the config and the seed file alone


def as_json(estimate: Estimate) -> dict[str, Any]:
    """The estimate as JSON values."""
    tokens, low, high = estimate.tokens()
    return {
        "stages": [
            {
                "stage": line.stage,
                "role": line.role,
                "rows": round(line.rows),
                "calls": round(line.size.calls),
                "input_tokens": round(line.size.input),
                "output_tokens": round(line.size.output),
                "cost": line.cost,
                "tokens_low": round(max(0.0, line.size.tokens - Z * line.error)) if line.error else None,
                "tokens_high": round(line.size.tokens + Z * line.error) if line.error else None,
                "most": {part.name: round(getattr(line.most, part.name)) for part in fields(line.most)},
                "most_cost": line.most_cost,
            }
            for line in estimate.lines
        ],
        "tokens": round(tokens),
        "tokens_low": round(low),
        "tokens_high": round(high),
        "cost": estimate.cost(),
    }
