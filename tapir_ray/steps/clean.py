"""Clean: a dataset read, and filtered over all of its parts: repeats, near-duplicates, overlap with evaluation sets."""

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
    """`seed/read`, and `seed/ingested`: the same rows, those filtered that are not to be in the new dataset.

    Of equal instructions one stays as `seed.without_repeats` says, of similar ones that of the lowest id. Raises
    InputError as `seed.read`, and where more than `filter.max_share` of the rows is filtered for one reason.
    """
    run, layout, settings = context.run, context.shards, context.config.regenerate
    assert settings is not None
    if not run.done(layout.ingested):
        with context.stage("clean", 0):
            _clean(context, settings.does("filter"))
    # A killed attempt may have left them.
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
        # Near-duplicates are looked for among what passed all else, so that none is lost to a row that goes itself.
        with context.progress.stage("find near-duplicates"):
            boilerplate = decontaminate.boilerplate(context)
            rows = mark_repeats(
                context.read(layout.checked), context.config, run.uri_of(layout.seed_bands.path), boilerplate
            )
    context.write(layout.ingested, rows, "clean", expected)


def _checked(context: Context) -> ray.data.Dataset:
    """The rows read, with those filtered that repeat another, fail a filter of their own or overlap; lazy."""
    settings, config = context.config.regenerate, context.config
    assert settings is not None
    rows = seed.without_repeats(context)
    if settings.does("filter"):
        rows = check_rows(rows, config)
    if settings.does("decontaminate"):
        rows = mark_contaminated(rows, decontaminate.of_evaluation_sets(context), config)
    return rows
