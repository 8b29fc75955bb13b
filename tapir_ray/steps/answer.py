"""The student answers a table's rows and the judge scores the answers: one streaming pipeline where both fit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray.data

from tapir_ray.context import PROCESSES, Context
from tapir_ray.kept import Kept
from tapir_ray.llm.engines import stopped_if_dying
from tapir_ray.records import ID, SCORED
from tapir_ray.stages.answer_openai import student_answer
from tapir_ray.stages.judge import judge


@contextmanager
def answering(context: Context, table: str) -> Iterator[None]:
    """To be around the writing of a `table` of answers: stops the run where the student's engines keep dying."""
    if context.config.student.engine == "openai":
        yield
        return
    replicas, progress = context.config.resources.student.replicas, context.progress
    with stopped_if_dying(context.run.uri_of(PROCESSES), replicas, lambda: progress.rows(table)):
        yield
    context.run.forget_answers(table)


def answer_and_judge(
    context: Context, rows: ray.data.Dataset, model: str, table: str, expected: int
) -> ray.data.Dataset:
    """The rows (schema SCORED) with the answers of `model` and the judge's scores; lazy.

    `rows` are what is `remaining` of `table`, which gets `expected` rows in all. Judging starts with the first answered
    block. Answers are kept as they are made: one that a killed run had is judged by the next, not made again. An engine
    lives while the pipeline runs; a student behind an endpoint is asked there (its replies are in the response cache)
    and `model` is not used.
    """
    config = context.config
    if config.student.engine == "openai":
        rows = context.roles.ask(rows, student_answer, SCORED)
    else:
        rows = context.run.answers(
            table, rows, functools.partial(_generate, context, model), SCORED, ID, expected,
            config.resources.rows_per_part, context.stage_cpus,
        )  # fmt: skip
    return judge(rows, config, context.roles, config.random_seed)


def _generate(context: Context, model: str, rows: ray.data.Dataset, keep: Callable[[], Kept]) -> ray.data.Dataset:
    from tapir_ray.llm.vllm import generate

    config = context.config
    processes = context.run.uri_of(PROCESSES)
    return generate(
        rows, model, config.student, config.resources.student, context.stage_cpus, config.random_seed, processes, keep
    )
