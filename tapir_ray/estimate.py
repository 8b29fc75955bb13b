"""How many calls and tokens a run will need: its rows by stage, times the size of what is asked for a row.

    sizes = guessed(config, seed, taxonomy)                # or measured by `pilot.py`
    estimate = estimated(config, seed, taxonomy, sizes)

Sizes are by what is asked of a row: `label`, `fill` (an answer of the seed data), `score_seed`, `score_holdout`,
`score_new` (a generated row), `expand`, `respond`. The bound takes every attempt, every token that a request may answer
with, and a token for each byte that is sent; it is what a budget of the same size would never stop.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from tapir_ray.config import Config, Endpoint
from tapir_ray.curriculum.quotas import apportion
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.llm.openai import TOKENS_PER_MESSAGE, TOKENS_PER_REQUEST
from tapir_ray.llm.prompts import Prompts
from tapir_ray.records import text_of
from tapir_ray.seed_sample import Seed

BYTES_PER_TOKEN = 4
GUESSED_ROWS = 300
LABEL_TOKENS, JUDGE_TOKENS, STYLED = 4, 120, 1.3
"""Guesses: a label's tokens, a judge's reply, and a styled answer's length against the seed data's."""
Z = 1.96
"""For an interval of 95 %."""
FEWEST = 3
"""Rows of a task below which its size is that of all tasks."""


@dataclass(frozen=True)
class Size:
    """Requests and tokens, of a row or of many."""

    calls: float = 0.0
    input: float = 0.0
    output: float = 0.0

    def __add__(self, other: Size) -> Size:
        return Size(self.calls + other.calls, self.input + other.input, self.output + other.output)

    def times(self, factor: float) -> Size:
        return Size(self.calls * factor, self.input * factor, self.output * factor)

    @property
    def tokens(self) -> float:
        return self.input + self.output


@dataclass
class Sizes:
    """What a row needs, by (what is asked, role): of each measured row with its task, and at most."""

    rows: dict[str, list[tuple[str | None, dict[str, Size]]]] = field(default_factory=dict)
    """By what is asked: (task, size by role) of each row."""
    most: dict[str, dict[str, Size]] = field(default_factory=dict)
    tasks: dict[str | None, float] = field(default_factory=lambda: {None: 1.0})
    """Shares of the seed data's tasks."""
    expanded: float = 1.0
    """Share of the draws that give an instruction."""
    fresh: float = 1.0
    """Share of the instructions that are no duplicate of the seed data."""
    accepted: float = 1.0
    """Share of the instructions that get a usable answer."""
    measured: int = 0
    """Rows that the pilot sent through each stage; 0 are guesses."""


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
        price = _price(endpoints[role])
        lines.append(
            Line(
                stage,
                role,
                count,
                size,
                bound,
                variance**0.5 if sizes.measured else 0.0,
                None if price is None else (size.input * price[0] + size.output * price[1]) / 1e6,
                None if price is None else (bound.input * price[0] + bound.output * price[1]) / 1e6,
            )
        )


def _price(endpoint: Endpoint | None) -> tuple[float, float] | None:
    price = endpoint.known_price if endpoint is not None else None
    return None if price is None else (price.input, price.output)


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


def guessed(config: Config, seed: Seed, taxonomy: Taxonomy) -> Sizes:
    """Sizes by the length of the prompts and of the seed data's rows, a token for every four bytes."""
    prompts, sizes = Prompts(config.prompts.dir), Sizes()
    answers = [row["response"] for row in seed.sample if row["response"] is not None]
    unknown = "x" * int(statistics.mean(map(len, answers)) if answers else BYTES_PER_TOKEN * 200)
    for row in seed.sample[:GUESSED_ROWS]:
        for asked, by_role in _of_row(config, prompts, taxonomy, row, row["response"] or unknown, _guess).items():
            sizes.rows.setdefault(asked, []).append((None, by_role))
    sizes.most = bounds(config, seed, taxonomy)
    return sizes


def bounds(config: Config, seed: Seed, taxonomy: Taxonomy) -> dict[str, dict[str, Size]]:
    """What a row needs at most, on average over the seed data; of generated rows nothing but `max_tokens` is known."""
    prompts = Prompts(config.prompts.dir)
    longest = "x" * _limit(config.teacher)
    written = "x" * (BYTES_PER_TOKEN * config.student.sampling.max_tokens)
    rows = seed.sample[:GUESSED_ROWS]
    found: dict[str, dict[str, Size]] = {}
    for row in rows:
        made = {**row, "messages": [{"role": "user", "content": longest}], "response": longest}
        of_seed = _of_row(config, prompts, taxonomy, row, row["response"] or longest, _bound, written)
        of_new = _of_row(config, prompts, taxonomy, made, longest, _bound, written)
        of_seed |= {asked: of_new[asked] for asked in ("score_new", "respond")}
        for asked, by_role in of_seed.items():
            for role, size in by_role.items():
                found.setdefault(asked, {}).setdefault(role, Size())
                found[asked][role] += size.times(1 / len(rows))
    return found


def _guess(text: str, messages: int, calls: float, attempts: int, reply: float, limit: int) -> Size:
    return Size(calls, calls * len(text.encode()) / BYTES_PER_TOKEN, calls * min(reply, limit))


def _bound(text: str, messages: int, calls: float, attempts: int, reply: float, limit: int) -> Size:
    overhead = TOKENS_PER_MESSAGE * messages + TOKENS_PER_REQUEST
    return Size(1, len(text.encode()) + overhead, limit).times(calls * attempts)


def _of_row(
    config: Config,
    prompts: Prompts,
    taxonomy: Taxonomy,
    row: Mapping[str, Any],
    answer: str,
    size: Any,
    student_text: str | None = None,
) -> dict[str, dict[str, Size]]:
    """Size by what is asked of a row, then by role; `size` is `_guess` or `_bound`."""
    instruction, task = text_of(row["messages"]), row["task"] or taxonomy.labels[0]
    label = prompts.render("label", labels=taxonomy.labels, instruction=instruction)
    teacher, judge, student = config.teacher, config.judge, config.student
    limit, judge_limit = _limit(teacher), _limit(config.judge_endpoint, judge.sampling.max_tokens)
    if student_text is None:
        student_text = answer.encode()[: BYTES_PER_TOKEN * student.sampling.max_tokens].decode(errors="ignore")
    reply = len(answer.encode()) / BYTES_PER_TOKEN
    attempts = judge.parse_attempts
    if judge.mode == "pairwise":
        text = prompts.render("judge_pairwise", instruction=instruction, answer_1=answer, answer_2=student_text)
        calls = (2 if judge.both_orders else 1) * (1 + judge.repeat_share)
        score = {"judge": size(text, 1, calls, attempts, JUDGE_TOKENS, judge_limit)}
    else:
        texts = [
            prompts.render("judge_pointwise", instruction=instruction, answer=one) for one in (answer, student_text)
        ]
        parts = [size(text, 1, 1 + judge.repeat_share, attempts, JUDGE_TOKENS, judge_limit) for text in texts]
        score = {"judge": parts[0] + parts[1]}
    if student.endpoint is not None:
        score["student"] = size(instruction, 1, 1, 1, reply, student.sampling.max_tokens)
    expand = prompts.render("expand", task=task, instruction=instruction)
    new = len(instruction.encode()) / BYTES_PER_TOKEN + 12
    return {
        "label": {"teacher": size(label, 1, 1, config.classify.label_attempts, LABEL_TOKENS, limit)},
        "fill": _answers(config, prompts, taxonomy, task, instruction, answer, size),
        "score_seed": score,
        "score_holdout": score,
        "score_new": score,
        "expand": {"teacher": size(expand, 1, 1, 1, new, limit)},
        "respond": _answers(config, prompts, taxonomy, task, instruction, answer, size),
    }


def _answers(
    config: Config, prompts: Prompts, taxonomy: Taxonomy, task: str, instruction: str, answer: str, size: Any
) -> dict[str, Size]:
    style, samples, limit = taxonomy.styles.get(task, ""), config.respond.samples, _limit(config.teacher)
    reply = STYLED * len(answer.encode()) / BYTES_PER_TOKEN
    if config.rewrite.mode == "second_pass":
        rewrite = prompts.render("rewrite", task=task, style=style, instruction=instruction, answer=answer)
        teacher = size(instruction, 1, samples, 1, reply, limit) + size(rewrite, 1, samples, 1, reply, limit)
    else:
        system = prompts.render("respond", task=task, style=style)
        teacher = size(system + instruction, 2, samples, 1, reply, limit)
    if samples == 1 and config.respond.min_score is None:
        return {"teacher": teacher}
    gate = prompts.render("judge_pointwise", instruction=instruction, answer=answer)
    judge_limit = _limit(config.judge_endpoint, config.judge.sampling.max_tokens)
    return {
        "teacher": teacher,
        "judge": size(gate, 1, samples, config.judge.parse_attempts, JUDGE_TOKENS, judge_limit),
    }


def _limit(endpoint: Endpoint, max_tokens: int | None = None) -> int:
    return endpoint.max_completion_tokens or max_tokens or endpoint.sampling.max_tokens


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
