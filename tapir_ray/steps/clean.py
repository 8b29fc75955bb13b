"""Clean: a dataset read, and filtered over all of its parts: repeats, near-duplicates, overlap with evaluation sets."""

from __future__ import annotations

import ray.data

from tapir_ray.data.schemas import INSTRUCTIONS
from tapir_ray.errors import InputError
from tapir_ray.steps import decontaminate, seed, shares
from tapir_ray.steps.contamination_list import list_contamination
from tapir_ray.steps.context import Context
from tapir_ray.transforms.filters import check_rows
from tapir_ray.transforms.filters.contamination import mark_contaminated
from tapir_ray.transforms.filters.duplicates import mark_repeats

READ, CHECKED, CLEAN, CONTAMINATION = "seed/read", "seed/checked", "seed/ingested", "seed/contamination"
BANDS = "seed/bands"


def clean(context: Context) -> None:
    """`seed/read`, and `seed/ingested`: the same rows, those filtered that are not to be in the new dataset.

    Of equal instructions one stays as `seed.without_repeats` says, of similar ones that of the lowest id. Raises
    InputError as `seed.read`, and where more than `filter.max_share` of the rows is filtered for one reason.
    """
    run, settings = context.run, context.config.regenerate
    assert settings is not None
    if not run.done(CLEAN):
        with context.stage("clean", 0):
            _clean(context, settings.does("filter"))
    # A killed attempt may have left them.
    for needless in (BANDS, CHECKED):
        run.clear(needless)
    list_contamination(context, CLEAN, CONTAMINATION)
    shares.judge(context, CLEAN, before=READ, contaminated=CONTAMINATION, error=InputError)


def _clean(context: Context, similar: bool) -> None:
    run = context.run
    seed.read(context)
    expected = run.manifest(READ).rows
    rows = _checked(context)
    if similar:
        if not run.done(CHECKED):
            context.write(CHECKED, rows, INSTRUCTIONS, "check", expected)
        # Near-duplicates are looked for among what passed all else, so that none is lost to a row that goes itself.
        with context.progress.stage("find near-duplicates"):
            boilerplate = decontaminate.boilerplate(context)
            rows = mark_repeats(context.read(CHECKED), context.config, run.uri_of(BANDS), boilerplate)
    context.write(CLEAN, rows, INSTRUCTIONS, "clean", expected)


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
