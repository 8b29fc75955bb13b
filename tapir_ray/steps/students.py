"""Students of a run that suites measure: the last one, the initial one and the control, with their training rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tapir_ray.config import Config
from tapir_ray.config.evaluate import CONTROL, INITIAL, LAST
from tapir_ray.run.layout import LoopLayout, SuiteTables, Table
from tapir_ray.run.run import Run
from tapir_ray.steps.context import Context
from tapir_ray.steps.train import base_student, student_after, student_in
from tapir_ray.train.chat import brings_template


@dataclass(frozen=True)
class Measured:
    """Student of a run that a suite measures."""

    student: str
    """`last`, `initial` or `control`."""
    model: str
    """HF folder or name."""
    table: Table
    """Results of the suite."""
    trained_on: tuple[Table, ...] | None
    """Training rows of the student; None if they are not known, as those of a model from elsewhere."""


def students(context: Context, tables: SuiteTables, who: Collection[str]) -> Iterator[Measured]:
    """Yields the students of `who` that a suite measures, the last one first. Raises StageError for an untrained one.

    The initial student is left out if it is the last one too: without a training, and behind an endpoint.
    """
    loop, last = context.loop, len(context.loop.rounds)
    after = student_after(context, last)
    trained = [loop.training(number) for number in range(1, last + 1)]
    if LAST in who:
        yield Measured(LAST, after, tables.last, _trained_on(context, trained))
    if INITIAL in who and tables.initial is not None and context.config.student.spec.local:
        model, rows = initial_student(context)
        if model != after:
            yield Measured(INITIAL, model, tables.initial, rows)
    if CONTROL in who and tables.control is not None and last:
        drawn = [loop.control(number).training for number in range(1, last + 1)]
        model = student_in(context, loop.control(last).checkpoint)
        yield Measured(CONTROL, model, tables.control, _trained_on(context, drawn))


def initial_student(context: Context) -> tuple[str, tuple[Table, ...] | None]:
    """Returns the HF folder (or name) of the student before the run, and its training rows in the run.

    A base model without a chat template cannot answer: then it is the student after the initial SFT.
    """
    student, base = context.config.student, base_student(context)
    if student.create is None and brings_template(base, student):
        return base, ()
    return student_after(context, 0), _trained_on(context, [])


def _trained_on(context: Context, rounds: list[Table]) -> tuple[Table, ...] | None:
    return trained_on(context.run, context.config, context.loop, rounds)


def trained_on(run: Run, config: Config, loop: LoopLayout, rounds: list[Table]) -> tuple[Table, ...] | None:
    """Returns the training tables of a student after rounds with these tables; None if one is not in the run."""
    train = config.train
    if config.evaluate.only:
        return None
    found = list(rounds)
    if rounds and train.init_from == "base":
        found = rounds[-1:] if train.data == "current" else rounds
    elif (start := run.done(loop.sft_checkpoint)) is None:
        return None
    elif "model" not in start.extra:
        found.insert(0, loop.sft_training)
    return tuple(found) if all(run.done(table) for table in found) else None
