"""Clean: reads a dataset and filters repeats, near-duplicates and contaminated rows over all of its files."""

from __future__ import annotations

import ray.data

from tapir_ray.errors import InputError
from tapir_ray.steps import decontaminate, seed, shares
from tapir_ray.steps.contamination_list import list_contamination
from tapir_ray.steps.context import Context
from tapir_ray.transforms.filters import check_rows
from tapir_ray.transforms.filters.contamination import mark_contaminated
from tapir_ray.transforms.filters.duplicates import mark_repeats


def clean(context: Context) -> None:
    """Writes `seed/read`, and `seed/ingested` with the rows marked that the new dataset must not have.

    Of equal instructions one is kept by the rule of `seed.without_repeats`; of similar ones the one of lowest id.
    Raises InputError as `seed.read` does, and if more than `filter.max_share` of the rows is filtered for one reason.
    """
    run, layout, settings = context.run, context.shards, context.config.regenerate
    assert settings is not None
    if not run.done(layout.ingested):
        with context.stage("clean", 0):
            _clean(context, settings.does("filter"))
    # Only needed to make `seed/ingested`; a killed attempt may have left them.
    for needless in (layout.seed_bands, layout.checked):
        run.clear(needless)
    list_contamination(context, layout.ingested, layout.contamination, decontaminate.of_evaluation_sets)
    shares.judge(context, layout.ingested, before=layout.read, contaminated=layout.contamination, error=InputError)


def _clean(context: Context, similar: bool) -> None:
    run, layout = context.run, context.shards
    seed.read(context)
    expected = run.manifest(layout.read).rows
    rows = _checked(context)
    if similar:
        if not run.done(layout.checked):
            context.write(layout.checked, rows, "check", expected)
        # Last, among the rows that passed everything else: a row that is filtered itself must not displace another.
        with context.progress.stage("find near-duplicates"):
            boilerplate = decontaminate.boilerplate(context)
            rows = mark_repeats(
                context.read(layout.checked), context.config, run.uri_of(layout.seed_bands.path), boilerplate
            )
    context.write(layout.ingested, rows, "clean", expected)


def _checked(context: Context) -> ray.data.Dataset:
    """Returns the rows of `seed/read`; repeats, rows that fail a filter and contaminated rows are marked. Lazy."""
    settings, config = context.config.regenerate, context.config
    assert settings is not None
    rows = seed.without_repeats(context)
    if settings.does("filter"):
        rows = check_rows(rows, config)
    if settings.does("decontaminate"):
        rows = mark_contaminated(rows, decontaminate.of_evaluation_sets(context), config)
    return rows
