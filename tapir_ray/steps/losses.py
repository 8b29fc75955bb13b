"""Losses of a table's rows by the student, computed before its engine answers: both need the same GPUs."""

from __future__ import annotations

import ray.data

from tapir_ray.config import Config, Student
from tapir_ray.run.layout import Table
from tapir_ray.steps.context import Context
from tapir_ray.transforms.losses import response_losses

LOSS_TABLE = "losses"
"""Name of the working table of a table's losses."""


def losses_before(
    context: Context, rows: ray.data.Dataset, model: str, table: Table, expected: int
) -> ray.data.Dataset:
    """Returns the rows with the losses of `model`, or of `curriculum.difficulty.model`.

    They are from a working table that is written before this function returns.

    `rows` are the `remaining` rows of `table`, which will have `expected` rows. A stop loses at most
    `resources.rows_per_block` rows of each worker: the next start computes only the losses that are missing.
    """
    run, losses = context.run, table.working(LOSS_TABLE)
    left = expected - run.kept(table)
    if not left:
        return rows
    if not run.done(losses):
        context.roles.free_resources_for("student")
        by = losses_by(context.config)
        model = context.config.curriculum.difficulty.model or model
        measured = response_losses(context.remaining(losses, rows), model, by)
        context.write(losses, measured, f"losses for {table}", left)
    return context.remaining(table, context.read(losses))


def losses_by(config: Config) -> Config:
    """Returns the config with `curriculum.difficulty.model` as the student, if losses are by that model."""
    rules = config.curriculum.difficulty
    if rules.model is None:
        return config
    # Settings of the student's files do not fit another model.
    other = Student(
        model=rules.model,
        chat_template=rules.chat_template,
        dtype=config.student.dtype,
        max_model_len=config.student.max_model_len,
    )
    return config.model_copy(update={"student": other})
