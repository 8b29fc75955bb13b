"""Sizes of a row's requests: number and tokens by kind of request, guessed from the config and the seed file alone.

    sizes = guessed(config, seed, taxonomy)                # or measured by `pilot.py`

The bound counts all attempts, all tokens that a reply may have, and one token for each byte sent.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tapir_ray.config import Config
from tapir_ray.cost.judging import JUDGE_TOKENS, asked_size, compared_size, limit_of
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.size import BYTES_PER_TOKEN, Size
from tapir_ray.curriculum.measures import configured_measure
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.data.schemas import text_of
from tapir_ray.llm.client.request import TOKENS_PER_MESSAGE, TOKENS_PER_REQUEST
from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.expand import HARDER, OPERATIONS
from tapir_ray.transforms.judge_question import Questions

GUESSED_ROWS = 300
LABEL_TOKENS, STYLED = 4, 1.3
"""Guesses: tokens of a label, and length of a styled answer over that of a seed answer."""


LONGEST_OPERATION = max(OPERATIONS.values(), key=len)


@dataclass
class Sizes:
    """Sizes of rows by kind of request (`label`, `expand`, …) and role."""

    rows: dict[str, list[tuple[str | None, dict[str, Size]]]] = field(default_factory=dict)
    """By kind of request: (task, size by role) of each measured row."""
    most: dict[str, dict[str, Size]] = field(default_factory=dict)
    """By kind of request: upper bound of a row by role."""
    tasks: dict[str | None, float] = field(default_factory=lambda: {None: 1.0})
    """Shares of the tasks in the seed data."""
    expanded: float = 1.0
    """Share of the draws that give a new instruction."""
    fresh: float = 1.0
    """Share of the new instructions that do not repeat the seed data."""
    accepted: float = 1.0
    """Share of the new instructions that get a usable answer."""
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    """By kind of request: rows of the pilot without a result, by the reason."""
    asked: dict[str, int] = field(default_factory=dict)
    """By kind of request: rows of the pilot that were asked."""
    measured: int = 0
    """Rows that the pilot sent through each stage; 0 if the sizes are guesses."""


def guessed(config: Config, seed: Seed, taxonomy: Taxonomy) -> Sizes:
    """Guesses sizes from the length of prompts and seed rows, one token for every four bytes."""
    questions, sizes = Questions.of(config), Sizes()
    answers = [row["response"] for row in seed.sample if row["response"] is not None]
    unknown = "x" * int(statistics.mean(map(len, answers)) if answers else BYTES_PER_TOKEN * 200)
    for row in seed.sample[:GUESSED_ROWS]:
        for asked, by_role in _of_row(config, questions, taxonomy, row, row["response"] or unknown, _guess).items():
            sizes.rows.setdefault(asked, []).append((None, by_role))
    sizes.most = bounds(config, seed, taxonomy)
    return sizes


def with_shares(taxonomy: Taxonomy, sizes: Sizes) -> Taxonomy:
    """Returns the taxonomy with the tasks of the seed rows as weights if it follows the seed data, else as it is.

    Without a labelled row the weights stay the published ones.
    """
    shares = {task: share for task, share in sizes.tasks.items() if task} or taxonomy.weights
    return taxonomy.with_seed_counts({task: round(1000 * share) for task, share in shares.items()})


def bounds(config: Config, seed: Seed, taxonomy: Taxonomy) -> dict[str, dict[str, Size]]:
    """Returns upper bounds of a row's sizes, averaged over the seed data.

    Generated rows are bounded by `max_tokens`, as nothing else is known of them.
    """
    questions = Questions.of(config).longest()
    longest = "x" * limit_of(config.teacher)
    written = "x" * (BYTES_PER_TOKEN * config.student.sampling.max_tokens)
    rows = seed.sample[:GUESSED_ROWS]
    found: dict[str, dict[str, Size]] = {}
    for row in rows:
        made = {**row, "messages": [{"role": "user", "content": longest}], "response": longest}
        of_seed = _of_row(config, questions, taxonomy, row, row["response"] or longest, _bound, written)
        of_new = _of_row(config, questions, taxonomy, made, longest, _bound, written)
        of_seed |= {asked: of_new[asked] for asked in ("score_new", "respond")}
        for asked, by_role in of_seed.items():
            of_roles = found.setdefault(asked, {})
            for role, size in by_role.items():
                of_roles[role] = of_roles.get(role, Size()) + size.times(1 / len(rows))
    return found


def _guess(text: str, messages: int, calls: float, attempts: int, reply: float, limit: int) -> Size:
    return Size(calls, calls * len(text.encode()) / BYTES_PER_TOKEN, calls * min(reply, limit))


def _bound(text: str, messages: int, calls: float, attempts: int, reply: float, limit: int) -> Size:
    overhead = TOKENS_PER_MESSAGE * messages + TOKENS_PER_REQUEST
    return Size(1, len(text.encode()) + overhead, limit).times(calls * attempts)


def _of_row(
    config: Config,
    questions: Questions,
    taxonomy: Taxonomy,
    row: Mapping[str, Any],
    answer: str,
    size: Any,
    student_text: str | None = None,
) -> dict[str, dict[str, Size]]:
    """Returns the sizes of a row by kind of request and role; `size` is `_guess` or `_bound`."""
    prompts, instruction, task = questions.prompts, text_of(row["messages"]), row["task"] or taxonomy.labels[0]
    styled = _styled_share(taxonomy, row["task"], most=student_text is not None)
    label = prompts.render("label", labels=taxonomy.labels, instruction=instruction)
    teacher, judge, student = config.teacher, config.judge, config.student
    limit, new_text = limit_of(teacher), answer
    if student_text is not None:
        new_text = "x" * limit
    else:
        student_text = answer.encode()[: BYTES_PER_TOKEN * student.sampling.max_tokens].decode(errors="ignore")
    reply = len(answer.encode()) / BYTES_PER_TOKEN
    repeated = judge.repeat_share if judge.repeated_at(config.judge_endpoint) > 0.0 else 0.0
    measure = configured_measure(config.curriculum.difficulty)

    def score(samples: int) -> dict[str, Size]:
        found = {}
        if measure.judge:
            found["judge"] = compared_size(config, questions, row, (answer, student_text), repeated, size)
        if student.endpoint is not None and measure.asks_student:
            found["student"] = size(instruction, 1, 1 + samples, 1, reply, student.sampling.max_tokens)
        return found

    other = compared_size(config, questions, row, (answer, new_text), 0.0, size)
    shown = {"answer": answer, "student_answer": student_text, "reasons": "x" * (BYTES_PER_TOKEN * JUDGE_TOKENS)}
    others = {"evolve": {"operation": LONGEST_OPERATION}, "feedback": {**shown, "level": HARDER}}
    kind = config.expand.prompt
    name = "expand" if kind == "like" else kind
    expand = prompts.render(name, task=task, instruction=instruction, **others.get(kind, {}))
    if config.expand.examples > 1:
        # The other rows of the task are taken to be as long as this one.
        expand = prompts.render("expand_examples", task=task, instructions=[instruction] * config.expand.examples)
    new = len(instruction.encode()) / BYTES_PER_TOKEN + 12
    return {
        "label": {"teacher": size(label, 1, 1, config.classify.label_attempts, LABEL_TOKENS, limit)},
        "fill": _answers(config, questions, taxonomy, row, task, answer, size, styled),
        "score_seed": score(measure.samples),
        "score_holdout": score(0),
        "score_new": score(measure.samples),
        "expand": {"teacher": size(expand, 1, 1, 1, new, limit)},
        "respond": _answers(config, questions, taxonomy, row, task, answer, size, styled),
        "annotate": {"teacher": _revision(config, prompts, instruction, student_text, size, reply)}
        if config.elad.revise == "revise"
        else _answers(config, questions, taxonomy, row, task, answer, size, styled),
        "rewrite": _answers(config, questions, taxonomy, row, task, answer, size, styled, draft=True),
        "prefer": {"judge": other if config.seed_data.responses == "replace" else other.times(styled)},
    }


def _revision(config: Config, prompts: Prompts, instruction: str, explanation: str, size: Any, reply: float) -> Size:
    """Returns the size of the requests that revise a student's explanation."""
    text = prompts.render("revise", instruction=instruction, steps=[explanation])
    # The number of each step: at most one for every word, or in a bound for every token that the student may write.
    text += " 1000." * (config.student.sampling.max_tokens if size is _bound else len(explanation.split()) // 4)
    found: Size = size(text, 1, 1, config.elad.attempts, reply + 20, limit_of(config.teacher))
    return found


def _answers(
    config: Config,
    questions: Questions,
    taxonomy: Taxonomy,
    row: Mapping[str, Any],
    task: str,
    answer: str,
    size: Any,
    styled: float,
    draft: bool = False,
) -> dict[str, Size]:
    """Returns the sizes by role of a new answer, or with `draft` of a rewriting of the existing one.

    `styled` is the share of answers in the style of the task. The others are plain, or with `draft` not asked for.
    """
    prompts, instruction = questions.prompts, text_of(row["messages"])
    longest = "" if taxonomy.styled is None else max(taxonomy.styles.values(), key=len, default="")
    style, samples, limit = taxonomy.styles.get(task, longest), config.respond.samples, limit_of(config.teacher)
    reply = STYLED * len(answer.encode()) / BYTES_PER_TOKEN
    if config.regenerate is not None and not config.regenerate.does("rewrite"):
        styled = 0.0
    rewrite = prompts.render("rewrite", task=task, style=style, instruction=instruction, answer=answer)
    plain = size(instruction, 1, samples, 1, reply, limit)
    rewriting = size(rewrite, 1, samples, 1, reply, limit)
    if draft:
        teacher = rewriting.times(styled)
    elif config.rewrite.mode == "second_pass":
        teacher = plain + rewriting.times(styled)
    else:
        system = prompts.render("respond", task=task, style=style)
        teacher = size(system + instruction, 2, samples, 1, reply, limit).times(styled) + plain.times(1.0 - styled)
    if samples == 1 and config.respond.min_score is None:
        return {"teacher": teacher}
    judged = asked_size(config, questions.one(instruction, row["task"], answer), samples, size)
    return {"teacher": teacher, "judge": judged.times(styled) if draft else judged}


def _styled_share(taxonomy: Taxonomy, task: str | None, most: bool) -> float:
    """Returns the share of answers in the style of their task: of rows of `task`, or by the weights if it is None.

    With `most` a bound: 1 if any task has a style, as rows may get other tasks.
    """
    if most or taxonomy.styled is None:
        return float(taxonomy.styled is None or bool(taxonomy.styled))
    if task is not None:
        return float(taxonomy.is_styled(task))
    return sum(taxonomy.weights.get(label, 0.0) for label in taxonomy.styled)
