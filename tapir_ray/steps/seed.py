"""Reading the seed data into the run, and refusing it, before anything is spent, where it cannot be used."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.context import Context
from tapir_ray.errors import InputError
from tapir_ray.records import OK, marked
from tapir_ray.sources import list_files
from tapir_ray.stages.ingest import (
    MALFORMED,
    PARSED,
    duplicate_positions,
    mark_duplicates,
    parse_sources,
)


def read(context: Context) -> None:
    """`seed/read`: every row of the seed data with its id and place.

    Raises InputError for malformed rows (the first with file and line), unknown tasks and empty seed data.
    """
    seed_data = context.config.seed_data
    if context.run.done("seed/read"):
        return
    rows = parse_sources(list_files(seed_data.path or ""), seed_data, context.stage_cpus)
    context.write("seed/read", rows, PARSED, "read the seed data")
    try:
        _refuse(context)
    except InputError:
        context.run.clear("seed/read")
        raise


def without_repeats(context: Context) -> ray.data.Dataset:
    """The rows of `seed/read`, lazily, with those filtered that repeat an earlier row or have no answer to keep."""
    run = context.run
    repeated = duplicate_positions(run.files("seed/read"), run.fs, context.stage_cpus)
    rows = context.map(context.read("seed/read"), mark_duplicates, positions=repeated)
    keep = context.config.seed_data.responses == "keep"
    return context.map(rows, _filter_unanswered) if keep else rows


def _refuse(context: Context) -> None:
    seed_data = context.config.seed_data
    manifest = context.run.manifest("seed/read")
    malformed = manifest.reasons.get(MALFORMED, 0)
    if malformed and not seed_data.skip_malformed:
        raise InputError(
            f"seed_data.path {seed_data.path}: {_first_reason(context)}"
            f"{f' (and {malformed - 1} more malformed rows)' if malformed > 1 else ''}; "
            "mend the file, or set seed_data.skip_malformed: true to leave such rows out"
        )
    if manifest.count(OK) == 0:
        raise InputError(f"seed_data.path {seed_data.path}: no usable row among {manifest.rows}")
    if seed_data.task_column and context.config.curriculum.tasks != "seed":
        for batch in context.run.scan("seed/read", ["task"]):
            for task in pc.unique(batch["task"]).to_pylist():
                if task is not None:
                    context.taxonomy.check(task, f"column {seed_data.task_column} of {seed_data.path}")


def _first_reason(context: Context) -> str:
    first: tuple[int, str] | None = None
    for batch in context.run.scan("seed/read", ["position", "reason"]):
        table = pa.Table.from_batches([batch])
        bad = table.filter(pc.starts_with(pc.fill_null(table["reason"], ""), f"{MALFORMED}:"))
        for position, reason in zip(bad["position"].to_pylist(), bad["reason"].to_pylist(), strict=True):
            if first is None or position < first[0]:
                first = (position, reason)
    return first[1].removeprefix(f"{MALFORMED}: ") if first else ""


def _filter_unanswered(batch: pa.Table) -> pa.Table:
    """Rows without an answer cannot be kept as they are: `no_response`."""
    return marked(batch, pc.is_null(batch["response"]), "no_response")
