"""Estimates the requests and tokens of a run: its rows by stage, times the size of a row's requests.

    sizes = guessed(config, seed, taxonomy)                # or measured by `pilot.py`
    estimate = method_of(config).estimate(config, seed, taxonomy, sizes)

Each kind of request has its own size:

- `label`, `fill` (an answer of the seed data), `expand`, `respond`
- `score_seed`, `score_holdout`, `score_new` (a generated row)
- `annotate` (a student's explanation that the teacher revises)
- in a regeneration `rewrite` (the file's own answer) and `prefer` (two answers compared)

The bound counts all attempts, all tokens that a reply may have, and one token for each byte sent. A budget of that size
never stops the run.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from tapir_ray.config import Config, Price
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.size import Size
from tapir_ray.cost.sizes import Sizes
from tapir_ray.curriculum.quotas import apportion
from tapir_ray.curriculum.tasks import Taxonomy

Z = 1.96
"""Standard errors on each side of a 95 % interval of a normal distribution."""
FEWEST = 3
"""Fewest measured rows of a task to use their mean; with fewer, the mean of all tasks is used."""


@dataclass(frozen=True)
class Line:
    """Requests of a stage to a role, in the whole run; costs are US dollars, None without a price."""

    stage: str
    role: str
    rows: float
    size: Size
    most: Size
    error: float
    """Standard error of the tokens; 0 without a pilot."""
    cost: float | None
    most_cost: float | None


@dataclass(frozen=True)
class Estimate:
    """Requests of a run, a line for each stage and role."""

    lines: list[Line]

    def tokens(self) -> tuple[float, float, float]:
        """Returns (estimate, low, high) in tokens: a 95 % interval with a pilot, else from 0 to the bound."""
        total = sum(line.size.tokens for line in self.lines)
        most = sum(line.most.tokens for line in self.lines)
        spread = Z * sum(line.error**2 for line in self.lines) ** 0.5
        return (total, max(0.0, total - spread), min(most, total + spread)) if spread else (total, 0.0, most)

    def cost(self) -> float | None:
        """Returns the cost in US dollars; None if the price of a role is unknown."""
        costs = [line.cost for line in self.lines]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


def estimated(config: Config, seed: Seed, taxonomy: Taxonomy, sizes: Sizes) -> Estimate:
    """Returns the requests of a run that trains, over all its rounds.

    With `score.candidates: unseen` only the rows of the initial SFT count as seen: which rows a round trains on is not
    known, and a bound must not be too low.
    """
    lines: list[Line] = []
    held = sum(seed.held_out(config).values())
    rows = seed.usable
    label_lines(lines, config, sizes, seed)
    if config.seed_data.responses != "keep":
        filled = seed.unanswered if config.seed_data.responses == "fill" else rows
        add_line(lines, config, sizes, "answer the seed data", "fill", sizes.tasks, filled)
    old = {task: share * (rows - held) for task, share in sizes.tasks.items()}
    new: dict[str | None, float] = dict.fromkeys(old, 0.0)
    trained = config.train.initial_share if config.score.candidates == "unseen" and config.certain_initial_sft else 0.0
    candidates = {task: (1 - trained) * n for task, n in old.items()}
    of_control = new
    for number in range(1, config.curriculum.rounds + 1):
        room = {task: candidates[task] + new[task] for task in old}
        chosen = apportioned(config.score.max_rows, room, taxonomy)
        of_new = {task: n * new[task] / max(1e-9, room[task]) for task, n in chosen.items()}
        of_old = {task: n - of_new[task] for task, n in chosen.items()}
        name = f"round {number}"
        selects = config.curriculum.difficulty.select != "none"
        add_line(lines, config, sizes, f"{name} score", "score_seed", of_old if selects else {})
        add_line(lines, config, sizes, f"{name} score", "score_holdout", {None: 1.0}, held)
        add_line(lines, config, sizes, f"{name} score", "score_new", of_new if selects else {})
        draws = apportioned(config.expand.size, dict.fromkeys(old, float(config.expand.size)), taxonomy)
        add_line(lines, config, sizes, f"{name} expand", "expand", draws)
        kept = {task: n * sizes.expanded * _fresh(sizes, old, new, draws, task) for task, n in draws.items()}
        add_line(lines, config, sizes, f"{name} respond", "respond", kept, drawn=sum(draws.values()))
        new = {task: new[task] + sizes.accepted * kept.get(task, 0.0) for task in new}
        if config.control == "random":
            draws = {task: share * config.expand.size for task, share in sizes.tasks.items()}
            add_line(lines, config, sizes, f"{name} control", "expand", draws)
            kept = {task: n * sizes.expanded * _fresh(sizes, old, of_control, draws, task) for task, n in draws.items()}
            add_line(lines, config, sizes, f"{name} control", "respond", kept, drawn=sum(draws.values()))
            of_control = {task: of_control[task] + sizes.accepted * kept[task] for task in of_control}
        if config.control != "none":
            add_line(lines, config, sizes, f"{name} control", "score_holdout", {None: 1.0}, held)
    add_line(lines, config, sizes, "evaluate", "score_holdout", {None: 1.0}, held)
    return Estimate(merged(lines))


def label_lines(lines: list[Line], config: Config, sizes: Sizes, seed: Seed) -> None:
    """Adds the lines of the labels of the seed data."""
    settings, rows = config.classify, seed.usable
    if settings.by == "teacher":
        add_line(lines, config, sizes, "label the seed data", "label", sizes.tasks, rows)
    elif settings.by == "deberta" and settings.label_rows:
        free = rows - sum(seed.held_out(config).values())
        add_line(lines, config, sizes, "label a sample", "label", sizes.tasks, min(settings.label_rows, free))


def estimated_regeneration(config: Config, seed: Seed, taxonomy: Taxonomy, sizes: Sizes) -> Estimate:
    """Returns the requests of a regeneration; the taxonomy does not matter.

    Assumes that only `balanced_rows` removes rows, and that all tasks lack the same share of answers.
    """
    settings = config.regenerate
    assert settings is not None
    lines: list[Line] = []
    rows, replaces = seed.usable, config.seed_data.responses == "replace"
    left = min(settings.balanced_rows or rows, rows)
    answered = left * (1 - seed.unanswered / rows)
    most_answered, most_unanswered = min(left, rows - seed.unanswered), min(left, seed.unanswered)
    if settings.does("classify") and config.classify.by == "teacher":
        add_line(lines, config, sizes, "classify", "label", sizes.tasks, rows)
    if settings.does("answer"):
        asked, most = (left, left) if replaces else (left - answered, most_unanswered)
        add_line(lines, config, sizes, "answer", "fill", sizes.tasks, asked, most)
    if settings.does("rewrite") and not replaces:
        add_line(lines, config, sizes, "rewrite", "rewrite", sizes.tasks, answered, most_answered)
    if settings.does("judge"):
        add_line(lines, config, sizes, "judge", "prefer", sizes.tasks, answered, most_answered)
    return Estimate(merged(lines))


def _fresh(
    sizes: Sizes,
    old: Mapping[str | None, float],
    new: Mapping[str | None, float],
    draws: Mapping[str | None, float],
    task: str | None,
) -> float:
    """Returns the share of a task's draws that repeat no other row.

    Assumes that each row is repeated as often as a seed row in the pilot, so the share falls with the number of rows:
    `sizes.fresh` 0.9 with as many generated as seed rows gives 0.9² = 0.81. Of the round's own rows half count, as on
    average half of them precede a draw.
    """
    before = sum(old.values())
    rows = before + sum(new.values()) + sizes.expanded * sum(draws.values()) / 2
    return float(sizes.fresh ** (rows / before)) if before else sizes.fresh


def apportioned(total: float, room: Mapping[str | None, float], taxonomy: Taxonomy) -> dict[str | None, float]:
    """Splits `total` rows over tasks by their weights, at most `room` each; without tasks, in proportion to `room`."""
    counts = {task: round(rows) for task, rows in room.items() if task is not None}
    if not counts or taxonomy.from_seed:
        available = sum(room.values())
        return {task: min(total, available) * rows / max(1e-9, available) for task, rows in room.items()}
    weights = taxonomy.effective_weights(counts)
    capacity = {task: counts[task] for task in weights}
    shares = apportion(min(round(total), sum(capacity.values())), capacity, weights)
    return {task: float(shares.get(task, 0)) if task is not None else 0.0 for task in room}


def add_line(
    lines: list[Line],
    config: Config,
    sizes: Sizes,
    stage: str,
    asked: str,
    by_task: Mapping[str | None, float],
    rows: float | None = None,
    drawn: float | None = None,
) -> None:
    """Adds a line for each role that `asked` needs; `by_task` holds rows, or shares of `rows`."""
    by_task = by_task if rows is None else {task: share * rows for task, share in by_task.items()}
    count = sum(by_task.values())
    if count <= 0 and not drawn:
        return
    for role, most in sizes.most[asked].items():
        size, variance = _expected(sizes.rows[asked], role, by_task)
        if drawn and sizes.measured:
            # The number of rows is uncertain too: a binomial share of the draws, measured on the pilot's rows.
            share = min(1.0, count / drawn)
            variance += (drawn * size.tokens / max(1e-9, count)) ** 2 * share * (1 - share) / sizes.measured
        bound = most.times(drawn or count)
        lines.append(priced(config, stage, role, size, bound, count, variance**0.5 if sizes.measured else 0.0))


def priced(
    config: Config, stage: str, role: str, size: Size, most: Size, rows: float | None = None, error: float = 0.0
) -> Line:
    """Returns a line with the costs of a size and its bound; without `rows` every call is a row."""
    endpoints = {"teacher": config.teacher, "judge": config.judge_endpoint, "student": config.student.endpoint}
    endpoint = endpoints[role]
    price = endpoint.known_price if endpoint is not None else None
    return Line(
        stage,
        role,
        size.calls if rows is None else rows,
        size,
        most,
        error,
        None if price is None else _dollars(size, price.at(_input_of_one(size))),
        None if price is None else _dollars(most, price.dearest(_input_of_one(most))),
    )


def _input_of_one(size: Size) -> int:
    """Returns the mean input tokens of a request, which select the tier of its price."""
    return round(size.input / max(1.0, size.calls))


def _dollars(size: Size, price: Price) -> float:
    return (size.input * price.input + size.output * price.output) / 1e6 + size.calls * price.request


def _expected(
    measured: Iterable[tuple[str | None, dict[str, Size]]], role: str, by_task: Mapping[str | None, float]
) -> tuple[Size, float]:
    """Returns (size of the rows of `by_task`, variance of its tokens).

    A task with `FEWEST` measured rows or more is estimated from them, others from the rows of all tasks.
    """
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


def merged(lines: list[Line]) -> list[Line]:
    """Sums the lines of the same stage and role."""
    found: dict[tuple[str, str], Line] = {}
    for line in lines:
        key = (line.stage, line.role)
        before = found.get(key)
        found[key] = line if before is None else _sum(before, line)
    return list(found.values())


def _sum(one: Line, two: Line) -> Line:
    cost = None if one.cost is None or two.cost is None else one.cost + two.cost
    most_cost = None if one.most_cost is None or two.most_cost is None else one.most_cost + two.most_cost
    error = (one.error**2 + two.error**2) ** 0.5
    return Line(
        one.stage, one.role, one.rows + two.rows, one.size + two.size, one.most + two.most, error, cost, most_cost
    )


def as_json(estimate: Estimate) -> dict[str, Any]:
    """Returns the estimate as JSON values."""
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
