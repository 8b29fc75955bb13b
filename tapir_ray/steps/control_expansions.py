"""Expansions of `control: random`: new instructions like seed rows that are drawn without a look at their difficulty.

They are as many draws as the curriculum has, and pass the same filters and get the same answers. A draw from all seed
rows alike has the seed data's own task shares.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.curriculum.sampling import count_cells, cutoffs, take
from tapir_ray.data.schemas import OK, SEED, TRAINING, conform, with_columns
from tapir_ray.run.layout import ControlExpansions
from tapir_ray.steps import decontaminate
from tapir_ray.steps.context import Context
from tapir_ray.steps.examples import show_examples
from tapir_ray.steps.generate import as_draws, write_generated
from tapir_ray.steps.train import base_student
from tapir_ray.transforms.count_tokens import count_tokens
from tapir_ray.transforms.mark_style import mark_style

CELL, GENERATED_POOL = "control", "generated"
DECIDING = ["instruction_id", "task", "split", "status"]
"""Columns of the seed data that decide whether a row can be drawn."""


def expansions(context: Context, round_number: int, size_column: str) -> None:
    """Writes `control/random/NN/{expanded,checked,generated,new}`; `size_column` of `new` has the tokens of a pair.

    Raises StageError if more than `filter.max_share` of the rows is filtered for one reason.
    """
    config, tables = context.config, _tables(context, round_number)
    if context.run.done(tables.new):
        return
    if not context.run.done(tables.generated):
        _generate(context, round_number, tables)
    rows = context.read(tables.generated)
    rows = context.map(rows, mark_style) if config.rewrite.mark else rows
    rows = context.map(rows, _pairs)
    rows = count_tokens(rows, base_student(context), config.student, config.train, context.transform_cpus, size_column)
    context.write(tables.new, rows, f"round {round_number} control: new pairs")


def _generate(context: Context, round_number: int, tables: ControlExpansions) -> None:
    config, cpus, seed_rows = context.config, context.transform_cpus, context.loop.instructions
    earlier = [decontaminate.bands_of(context, 0)]
    earlier += [context.run.uri_of(_tables(context, before).bands.path) for before in range(1, round_number)]
    cells = context.map(context.read(seed_rows, columns=DECIDING), _drawable)
    found = count_cells(cells, config.random_seed, (round_number, CELL, "expand"), transform_cpus=cpus)
    expected = config.expand.size if found.capacities else 0

    def drawn() -> ray.data.Dataset:
        chosen = cutoffs(cells, found, {(CELL, CELL): expected}, transform_cpus=cpus)
        rows = take(context.map(context.read(seed_rows), _drawable), chosen, cpus)
        draws = context.map(context.map(rows, _with_task), as_draws, round_number=round_number)
        if config.expand.examples > 1:
            usable = context.map(context.read(seed_rows, columns=[*DECIDING, "messages"]), _drawable)
            draws = show_examples(context, draws, context.map(usable, _with_task), (round_number, CELL, "expand"))
        return context.map(draws, _without_pool)

    write_generated(context, tables, drawn, expected, earlier, f"round {round_number} control")


def _tables(context: Context, round_number: int) -> ControlExpansions:
    tables = context.loop.control(round_number).expansions
    assert tables is not None
    return tables


def _drawable(batch: pa.Table) -> pa.Table:
    """Returns the usable seed rows in one cell; their own task is in the column `of_task`."""
    keep = pc.and_(pc.equal(batch["status"], OK), pc.equal(batch["split"], SEED))
    batch = batch.filter(pc.and_(keep, pc.is_valid(batch["task"])))
    return with_columns(batch, of_task=batch["task"], pool=CELL, task=CELL)


def _with_task(batch: pa.Table) -> pa.Table:
    return with_columns(batch, task=batch["of_task"])


def _without_pool(draws: pa.Table) -> pa.Table:
    """Returns draws without a pool: nobody has measured the difficulty of their parents."""
    return with_columns(draws, pool=None)


def _pairs(batch: pa.Table) -> pa.Table:
    batch = batch.filter(pc.equal(batch["status"], OK))
    return conform(with_columns(batch, pool=GENERATED_POOL), TRAINING)
