"""`--from STAGE=PATH`: a table of the user's own in the place of the one that a stage of round 1 begins with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.data.files import list_files
from tapir_ray.data.readers import read_raw
from tapir_ray.data.schemas import GENERATED_ROWS, INSTRUCTIONS, SCORED, TRAINING
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError
from tapir_ray.steps import decontaminate, files_left_out, holdout, round_zero, seed, shares
from tapir_ray.steps.contamination_list import list_contamination
from tapir_ray.steps.context import Context
from tapir_ray.steps.round_zero import CONTAMINATION
from tapir_ray.transforms.filters import filter_generated, filter_read
from tapir_ray.transforms.ingest import duplicate_positions, mark_duplicates
from tapir_ray.transforms.user_rows import HAS_SPLIT, read_own_rows, with_places

SPLIT = "seed/split"
FROM = "imported_from"
"""In the manifest of an imported table: the absolute path it came from."""


@dataclass(frozen=True)
class Begin:
    """What a stage begins with: its table, the schema, the columns a user's file must have, and the rows' own key."""

    table: str
    schema: pa.Schema
    needed: tuple[str, ...]
    key: str = "instruction_id"

    @property
    def is_seed(self) -> bool:
        """Whether the rows take the place of the seed data, with or without tasks."""
        return self.schema is INSTRUCTIONS

    @property
    def is_generated(self) -> bool:
        return self.schema is GENERATED_ROWS


SCORES = ("teacher_score", "student_score")
BEGINS_WITH = {
    "classify": Begin("seed/ingested", INSTRUCTIONS, ("messages",)),
    "score": Begin("seed/instructions", INSTRUCTIONS, ("messages", "response", "task")),
    "generate": Begin("rounds/01/scored", SCORED, ("messages", "response", "task", *SCORES)),
    "mix": Begin("rounds/01/generated", GENERATED_ROWS, ("messages", "response", "task"), "draw_id"),
    "train": Begin("rounds/01/training", TRAINING, ("messages", "response"), "pair_id"),
}


def own_table(start: str) -> tuple[str, str] | None:
    """(stage, path) of `STAGE=PATH`, None for an empty string.

    Raises InputError for anything else, and for rows without a column that the stage needs.
    """
    if not start:
        return None
    stage, _, path = start.partition("=")
    if stage not in BEGINS_WITH or not path:
        raise InputError(f"--from {start}: write it as STAGE=PATH, with a stage of {', '.join(BEGINS_WITH)}")
    if not is_remote(path) and not Path(path).exists():
        raise InputError(f"--from {start}: there is no file or folder {path}")
    needed = BEGINS_WITH[stage].needed
    for _, row in islice(read_raw(list_files(path, f"--from {stage}:", "all")[0]), 1):
        missing = [name for name in needed if isinstance(row, dict) and name not in row]
        if missing:
            raise InputError(
                f"--from {start}: the rows have no column {missing[0]}; {stage} begins with {', '.join(needed)}"
            )
    return stage, path


def import_rows(context: Context, stage: str, path: str) -> None:
    """Publish the user's rows as the table that `stage` begins with, filtered as the run's own would be.

    Repeated ids are filtered, and what overlaps with the holdout or an evaluation set; rows for `mix` pass the filters
    of generated rows. Seed data without the column `split` is split here; the tables of round 1 are checked against the
    holdout of the seed data, which is ingested first. A run that imported the same path before goes on.

    Raises InputError for a run that already has the table, and for rows that cannot be used.
    """
    begin, where = BEGINS_WITH[stage], f"--from {stage}={path}"
    run, source = context.run, path if is_remote(path) else str(Path(path).resolve())
    there = run.done(begin.table)
    if there is not None:
        if there.extra.get(FROM) == source:
            _look_into(context, stage)
            return
        raise InputError(f"{where}: the run {run.uri} already has a table {begin.table}; use another --run-dir")
    if not begin.is_seed:
        round_zero.ingest(context)
    rows, count = _read(context, stage, path, where)
    if begin.is_seed:
        context.write(SPLIT, rows, INSTRUCTIONS, "split off the holdout", count)
        rows = decontaminate.filter_rows(context, context.read(SPLIT))
    elif begin.is_generated:
        seed_bands, own_bands = decontaminate.bands_of(context, 0), decontaminate.bands_of(context, 1)
        common = decontaminate.boilerplate(context)
        rows = filter_generated(rows, context.config, decontaminate.indexes(context), own_bands, [seed_bands], common)
    else:
        rows = decontaminate.filter_rows(context, rows)
    context.write(begin.table, rows, begin.schema, f"import {begin.table}", count, extra={FROM: source})
    try:
        seed.check_rows(context, begin.table, where)
    except InputError:
        run.clear(begin.table)
        raise
    _look_into(context, stage)


def _look_into(context: Context, stage: str) -> None:
    """List what listed; raise InputError where more than `filter.max_share` is filtered for one reason."""
    table = BEGINS_WITH[stage].table
    listed = CONTAMINATION if BEGINS_WITH[stage].is_seed else f"imported/{stage}_contamination"
    list_contamination(context, table, listed)
    shares.judge(context, table, before=f"imported/{stage}", contaminated=listed, error=InputError)


def _read(context: Context, stage: str, path: str, where: str) -> tuple[ray.data.Dataset, int]:
    """The rows of `imported/STAGE`, lazily, each with its split and those filtered that repeat an id; and their number.

    Raises InputError where they cannot be used.
    """
    begin, run, config = BEGINS_WITH[stage], context.run, context.config
    table, files = f"imported/{stage}", files_left_out.files(context, path, f"--from {stage}:", "all")
    rows = read_own_rows(files, begin.schema, begin.needed, begin.is_generated, context.transform_cpus)
    count = context.write(table, rows, with_places(begin.schema), f"read {path}").rows
    seed.check_rows(context, table, where)
    if stage != "classify" or config.classify.by == "column":
        seed.check_tasks(context, table, f"{where}, column task")
    if stage == "classify" and config.classify.by == "column":
        seed.check_task_column(context, table, f"{where}, column task")
    positions = duplicate_positions(run.files(table), run.fs, context.transform_cpus, begin.key)
    rows = context.map(context.read(table), mark_duplicates, positions=positions)
    if begin.is_seed:
        seed.check_responses(context, table, where)
        rows = filter_read(rows, config)
        if not any(pc.any(batch[HAS_SPLIT.name]).as_py() for batch in run.scan(table, [HAS_SPLIT.name])):
            rows = holdout.with_holdout(context, rows)
    return rows, count
