"""Generate: the teacher writes instructions like the drawn ones, then answers those that pass the filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import ray

from tapir_ray.curriculum.difficulty import EASY, HARD, with_pool
from tapir_ray.curriculum.plan import Plan
from tapir_ray.curriculum.quotas import Cell
from tapir_ray.curriculum.sampling import count_cells, cutoffs, take
from tapir_ray.curriculum.sources import RANDOM
from tapir_ray.data.schemas import DRAWN, GENERATED_ROWS, OK, conform, draw_id, with_columns
from tapir_ray.run.layout import Table
from tapir_ray.steps import classifier, decontaminate, shares
from tapir_ray.steps.contamination_list import list_contamination
from tapir_ray.steps.context import Context
from tapir_ray.steps.examples import show_examples
from tapir_ray.steps.score import without_holdout
from tapir_ray.transforms.annotators import annotation
from tapir_ray.transforms.classify import classify
from tapir_ray.transforms.expand import expand
from tapir_ray.transforms.filters import filter_generated

CHECKED = pa.schema([*GENERATED_ROWS, ("task_predicted", pa.string())])
"""Expanded rows, with the classifier's label in `task_predicted` and the requested task in `task`."""


class Tables(Protocol):
    """Outputs of a round's expansions, of the curriculum or of its control."""

    @property
    def expanded(self) -> Table: ...

    @property
    def bands(self) -> Table: ...

    @property
    def checked(self) -> Table: ...

    @property
    def contamination(self) -> Table: ...

    @property
    def generated(self) -> Table: ...


def generate(context: Context, round_number: int, plan: Plan) -> None:
    """Writes `rounds/NN/expanded` (one row a draw), `checked` (filtered) and `generated` (answered).

    Raises StageError as `write_generated` does.
    """
    tables = context.loop.round(round_number)
    if context.run.done(tables.generated):
        return
    with context.stage("generate", round_number):
        earlier = [decontaminate.bands_of(context, before) for before in range(round_number)]
        write_generated(
            context,
            tables,
            lambda: draws(context, round_number, plan),
            sum(plan.expand.values()),
            earlier,
            f"round {round_number}",
        )


def write_generated(
    context: Context,
    tables: Tables,
    drawn: Callable[[], ray.data.Dataset],
    expected: int,
    earlier: list[str],
    label: str,
) -> None:
    """Writes the tables of new instructions: one for each of the `expected` rows of `drawn`, filtered and answered.

    They are compared with the near-duplicate bands in the folders `earlier`. Raises StageError if more than
    `filter.max_share` of the rows is filtered for one reason, before any answer is paid.
    """
    run = context.run
    expanded, checked, generated = tables.expanded, tables.checked, tables.generated
    if not run.done(generated):
        if not run.done(expanded):
            rows = context.remaining(expanded, drawn())
            rows = expand(rows, context.config, context.roles)
            if context.config.classify.by == "deberta" and context.config.filter.other_task:
                # Adds the column `task_predicted`, for `classify` to fill at its place in the schema.
                rows = context.map(rows, conform, schema=CHECKED)
                rows = classify(
                    rows,
                    classifier.model(context),
                    context.config,
                    columns=("task_predicted", "task_prob"),
                    # A stop loses at most one window: the default of 1,024 rows would be many paid replies.
                    window=context.config.resources.rows_per_block,
                )
            context.write(expanded, rows, f"{label} expand", expected)
        if not run.done(checked):
            rows = context.read(expanded)
            context.write(checked, _filtered(context, rows, tables, earlier), f"{label} filter", expected)
        list_contamination(context, checked, tables.contamination)
        shares.judge(context, checked, before=expanded, contaminated=tables.contamination)
        rows = context.remaining(generated, context.read(checked))
        answer = annotation(context.config.expand.annotation)
        rows = answer(rows, context.config, context.roles, context.taxonomy.styles)
        context.write(generated, rows, f"{label} respond", expected)


def _filtered(context: Context, rows: ray.data.Dataset, tables: Tables, earlier: list[str]) -> ray.data.Dataset:
    bands = context.run.uri_of(tables.bands.path)
    boilerplate = decontaminate.boilerplate(context)
    return filter_generated(rows, context.config, decontaminate.indexes(context), bands, earlier, boilerplate)


def draws(context: Context, round_number: int, plan: Plan) -> ray.data.Dataset:
    """Returns the plan's draws from each source and task, with the fewest repeats of a row. Lazy.

    `pool` is that of the row that a draw is from; an unscored row counts as easy.
    """
    from_pools = _drawn(context, round_number, plan, plan.draws) if plan.draws else None
    if not plan.random_draws:
        assert from_pools is not None
        return from_pools
    anywhere = _drawn(context, round_number, plan, plan.random_draws, RANDOM)
    return anywhere if from_pools is None else from_pools.union(anywhere)


def _drawn(
    context: Context, round_number: int, plan: Plan, quota: Mapping[Cell, int], *source: str
) -> ray.data.Dataset:
    """Returns the draws of a quota table. A `source` has its own keys, ids, and pool for all rows."""
    seed, cpus = context.config.random_seed, context.transform_cpus
    cells = _with_pools(context, round_number, plan, bool(source), CELLS)
    found = count_cells(cells, seed, (round_number, "expand", *source), transform_cpus=cpus)
    chosen = cutoffs(cells, found, quota, transform_cpus=cpus)
    rows = take(_with_pools(context, round_number, plan, bool(source)), chosen, cpus)
    drawn = context.map(rows, as_draws, round_number=round_number, source=source)
    if context.config.expand.examples == 1:
        return drawn
    usable = _with_pools(context, round_number, plan, bool(source), [*CELLS, "messages"])
    return show_examples(context, drawn, context.map(usable, _of_its_pool), (round_number, "expand", *source))


CELLS = ["instruction_id", "task", "split", "difficulty", "teacher_score", "status"]
"""Columns of a scored table that decide the cell of a row."""
MEASURED = "measured_pool"
"""Column with the pool of a row by its difficulty, if `pool` is that of its source."""


def _with_pools(
    context: Context, round_number: int, plan: Plan, anywhere: bool, columns: list[str] | None = None
) -> ray.data.Dataset:
    rows = context.map(context.read(context.loop.round(round_number).scored, columns=columns), without_holdout)
    low, least = plan.threshold, context.config.judge.min_teacher_score
    rows = context.map(rows, with_pool, delta=low, min_teacher_score=least, ceiling=plan.ceiling)
    return context.map(rows, of_any_pool) if anywhere else rows


def of_any_pool(batch: pa.Table) -> pa.Table:
    """Returns rows with `pool` random, if they are ok and not unreliable, and their own pool in another column."""
    pool = pc.if_else(pc.and_(pc.equal(batch["status"], OK), pc.is_null(batch["pool"])), EASY, batch["pool"])
    usable = pc.is_in(pool, pa.array([HARD, EASY]))
    return with_columns(batch, pool=pc.if_else(usable, RANDOM, pa.scalar(None, pa.string())), **{MEASURED: pool})


def _of_its_pool(batch: pa.Table) -> pa.Table:
    """Returns the rows that can be drawn, with the pool that their draws get."""
    pool = batch[MEASURED] if MEASURED in batch.column_names else batch["pool"]
    return with_columns(batch, pool=pool).filter(pc.is_in(pool, pa.array([HARD, EASY])))


def as_draws(batch: pa.Table, round_number: int, source: tuple[str, ...] = ()) -> pa.Table:
    """Returns drawn rows, with their repeats in `copy`, as rows to expand.

    `source` is `random` for those of any pool.
    """
    parents = batch["instruction_id"].to_pylist()
    copies = batch["copy"].to_pylist()
    ids = [draw_id(round_number, parent, copy, *source) for parent, copy in zip(parents, copies, strict=True)]
    batch = with_columns(
        batch,
        pool=batch[MEASURED] if source else batch["pool"],
        draw_id=pa.array(ids, pa.string()),
        parent_id=batch["instruction_id"],
        parent_response=batch["response"],
        round=pa.array([round_number] * len(batch), pa.int64()),
        response=None,
        masked_turns=pa.nulls(len(batch), GENERATED_ROWS.field("masked_turns").type),
        reasoning=None,
        teacher_model=None,
        prompt_hash=None,
        sampling=None,
        style=None,
        meta=None,
        license=None,
        operation=None,
    )
    return conform(batch, DRAWN)
