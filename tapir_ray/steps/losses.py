"""Losses of a table's rows by the student, computed before its engine answers: both need the same GPUs."""

from __future__ import annotations

import ray.data

from tapir_ray.run.layout import Table
from tapir_ray.steps.context import Context
from tapir_ray.transforms.losses import response_losses

LOSS_TABLE = "losses"
"""Name of the working table of a table's losses."""


def losses_before(
    context: Context, rows: ray.data.Dataset, model: str, table: Table, expected: int
) -> ray.data.Dataset:
    """Returns the rows with the losses of `model`, from a working table that is written before this function returns.

    `rows` are the `remaining` rows of `table`, which will have `expected` rows. A stop loses at most
    `resources.rows_per_block` rows of each worker: the next start computes only the losses that are missing.
    """
    run, losses = context.run, table.working(LOSS_TABLE)
    left = expected - run.kept(table)
    if not left:
        return rows
    if not run.done(losses):
        context.roles.free_resources_for("student")
        measured = response_losses(context.remaining(losses, rows), model, context.config)
        context.write(losses, measured, f"losses for {table}", left)
    return context.remaining(table, context.read(losses))
