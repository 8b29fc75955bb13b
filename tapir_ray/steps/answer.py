"""Student's losses and answers and the judge's scores of a table's rows.

Answers and scores are made in one streaming pipeline if both models fit. If a local judge and the student's engine need
the same GPUs, they run one after the other, with a table in between.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data

from tapir_ray.cluster.capacity import fits_with_servers, model_servers, possible_nodes
from tapir_ray.cluster.placement import with_driver
from tapir_ray.curriculum.measures import Measure
from tapir_ray.llm.engine.base import StudentWork
from tapir_ray.llm.engine.board import EngineBoard
from tapir_ray.llm.engine.health import PROCESSES
from tapir_ray.llm.engine.registry import engine_class
from tapir_ray.run.answer_log import AnswerLog
from tapir_ray.run.layout import Table
from tapir_ray.steps.context import Context
from tapir_ray.steps.losses import LOSS_TABLE, losses_before
from tapir_ray.transforms.answer import student_answer, with_lengths
from tapir_ray.transforms.judge import judge
from tapir_ray.transforms.verifiers import with_sample_scores

ANSWERED = "answered"
"""Working table of a table's answers, written if they cannot be made while the judge runs."""
FACTS_S = 5.0
"""Seconds that the progress line waits for the engines' board, an actor that starts with the pipeline."""


@contextmanager
def answering(context: Context, table: Table) -> Iterator[None]:
    """Context manager for writing a `table` of answers: aborts if the student's engines crash-loop.

    Releases the resources of the engines on exit, and removes the stored answers and losses once the table is written.
    """
    student = context.config.student
    if not student.spec.local:
        yield
        return
    replicas, progress = context.config.resources.student.replicas, context.progress
    engine = engine_class(student.engine)
    with engine.guarded(context.run.uri_of(PROCESSES), replicas, lambda: progress.rows(table.path)):
        yield
    context.run.forget_answers(table)
    for name in (ANSWERED, LOSS_TABLE):
        context.run.clear(table.working(name))


def answer_and_judge(
    context: Context, rows: ray.data.Dataset, model: str, table: Table, expected: int, needs: Measure
) -> ray.data.Dataset:
    """Returns the rows with what the measure needs: losses and answers of `model`, judge's scores, or none of them.

    Lazy but for the losses, which are computed before this function returns.
    """
    if needs.losses:
        rows = losses_before(context, rows, model, table, expected)
    if not needs.asks_student:
        return rows
    rows = answer(context, rows, model, table, expected, needs.samples, needs.temperature)
    if needs.verified:
        rows = context.map(rows, with_sample_scores, specs=context.config.judge.verifiers)
    if not needs.judge:
        return context.map(rows, with_lengths)
    return judge(rows, context.config, context.roles, context.config.random_seed, table.row_schema)


def answer(
    context: Context,
    rows: ray.data.Dataset,
    model: str,
    table: Table,
    expected: int,
    samples: int = 0,
    temperature: float = 1.0,
) -> ray.data.Dataset:
    """Returns the rows with answers of `model`, and `samples` more at `temperature`, in the columns of `table`. Lazy.

    `rows` are the `remaining` rows of `table`, which will have `expected` rows. The next stage starts with the first
    answered block. Only if a local judge does not fit next to the student's engine are all answers made before this
    function returns.

    Answers are stored as they are made, so an answer of a killed run is judged by the next attempt and not made again.
    The engine runs as long as the pipeline. A student behind an endpoint is asked there, with replies in the response
    cache, and `model` is not used.
    """
    config = context.config
    if not config.student.spec.local:
        ask = functools.partial(student_answer, samples=samples, temperature=temperature)
        return context.roles.ask(rows, ask, table.row_schema)
    if model_servers(config) and not fits_with_servers(config, "student", possible_nodes()):
        return _answered_before(context, rows, model, table, expected, samples, temperature)
    return _answers(context, rows, model, table, expected, samples, temperature)


def _answered_before(
    context: Context, rows: ray.data.Dataset, model: str, table: Table, expected: int, samples: int, temperature: float
) -> ray.data.Dataset:
    """Writes the answers to a table of their own, before the judge's server starts; returns its remaining rows."""
    run, answered = context.run, table.working(ANSWERED)
    left = expected - run.kept(table)
    if left and not run.done(answered):
        context.roles.free_resources_for("student")
        rows = _answers(context, context.remaining(answered, rows), model, answered, left, samples, temperature)
        with answering(context, answered):
            context.write(answered, rows, f"answers for {table}", left)
    return context.remaining(table, context.read(answered)) if left else rows


def _answers(
    context: Context, rows: ray.data.Dataset, model: str, table: Table, expected: int, samples: int, temperature: float
) -> ray.data.Dataset:
    resources = context.config.resources
    make = functools.partial(_generate, context, model, table, samples, temperature)
    return context.run.answers(table, rows, make, expected, resources.rows_per_block, context.transform_cpus)


def _generate(
    context: Context,
    model: str,
    table: Table,
    samples: int,
    temperature: float,
    rows: ray.data.Dataset,
    keep: Callable[[], AnswerLog],
) -> ray.data.Dataset:
    config = context.config
    processes = context.run.uri_of(PROCESSES)
    # No CPU: next to an engine that holds all of them the board would never start.
    board: Any = ray.remote(num_cpus=0)(EngineBoard).options(**with_driver()).remote()
    context.progress.follow(table.path, lambda: ray.get(board.facts.remote(), timeout=FACTS_S))
    work = StudentWork(
        model,
        config.student,
        config.resources.student,
        context.transform_cpus,
        config.random_seed,
        processes,
        keep,
        board,
        samples,
        temperature,
        context.roles.kept_student(),
    )
    return engine_class(config.student.engine).generate(rows, work)
