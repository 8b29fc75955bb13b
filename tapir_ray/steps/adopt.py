"""`--from STAGE=PATH`: a table of the user's own in the place of the one that a stage of round 1 begins with."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.context import Context
from tapir_ray.errors import InputError
from tapir_ray.records import (
    GENERATED,
    GENERATED_ROWS,
    INSTRUCTIONS,
    OK,
    SCORED,
    SEED,
    TRAINING,
    draw_id,
    instruction_id,
    pair_id,
    with_columns,
)
from tapir_ray.steps import holdout, overlap

SPLIT = "seed/split"

BEGINS_WITH = {
    "classify": ("seed/ingested", INSTRUCTIONS, ("messages",)),
    "score": ("seed/instructions", INSTRUCTIONS, ("messages", "response", "task")),
    "generate": ("rounds/01/scored", SCORED, ("messages", "response", "task", "teacher_score", "student_score")),
    "mix": ("rounds/01/generated", GENERATED_ROWS, ("messages", "response", "task")),
    "train": ("rounds/01/training", TRAINING, ("messages", "response")),
}
"""By stage: its table, the table's schema, and the columns that a user's file must have."""


def own_table(start: str) -> tuple[str, str] | None:
    """(stage, path) of `STAGE=PATH`, None for an empty string. Raises InputError for anything else."""
    if not start:
        return None
    stage, _, path = start.partition("=")
    if stage not in BEGINS_WITH or not path:
        raise InputError(f"--from {start}: write it as STAGE=PATH, with a stage of {', '.join(BEGINS_WITH)}")
    if not Path(path).exists():
        raise InputError(f"--from {start}: there is no file or folder {path}")
    files = sorted(Path(path).glob("*.parquet")) if Path(path).is_dir() else [Path(path)]
    if not files or any(file.suffix not in (".parquet", ".jsonl") for file in files):
        raise InputError(f"--from {start}: the table must be .parquet files or one .jsonl file")
    return stage, path


def adopt(context: Context, stage: str, path: str) -> None:
    """Publish the user's rows as the table that `stage` begins with; missing ids and statuses are filled in.

    Seed data without the column `split` is split here: a holdout by hash, and rows that overlap with it filtered. Does
    nothing if the run has that table. Raises InputError for a file without the columns that are needed.
    """
    table, schema, needed = BEGINS_WITH[stage]
    if context.run.done(table):
        return
    read = ray.data.read_json if path.endswith(".jsonl") else ray.data.read_parquet
    rows = read(path, num_cpus=context.stage_cpus)
    given = rows.columns() or []
    missing = [name for name in needed if name not in given]
    if missing:
        raise InputError(f"--from {stage}={path}: the rows have no column {missing[0]}; {stage} begins with {needed}")
    rows = context.map(rows, completed, names=schema.names, generated=stage == "mix")
    if schema is INSTRUCTIONS and "split" not in given:
        context.write(SPLIT, holdout.with_holdout(context, rows), schema, "split off the holdout")
        rows = overlap.filter_rows(context, context.read(SPLIT))
    context.write(table, rows, schema, f"adopt {table}")


def completed(batch: pa.Table, names: list[str], generated: bool) -> pa.Table:
    """The batch with what can be derived of the columns in `names`: ids, status, split, round, mfd, pool."""
    n = len(batch)
    ids = pa.array([instruction_id(messages) for messages in batch["messages"].to_pylist()], pa.string())
    derived = {
        "instruction_id": lambda: ids,
        "status": lambda: pa.array([OK] * n, pa.string()),
        "split": lambda: pa.array([GENERATED if generated else SEED] * n, pa.string()),
        "round": lambda: pa.array([int(generated)] * n, pa.int64()),
        "mfd": lambda: pc.subtract(batch["teacher_score"], batch["student_score"]),
        "copy": lambda: pa.array([0] * n, pa.int64()),
        "pair_id": lambda: pa.array([pair_id(row_id, 0) for row_id in ids.to_pylist()], pa.string()),
        "draw_id": lambda: pa.array([draw_id(1, row_id, 0) for row_id in ids.to_pylist()], pa.string()),
        "pool": lambda: pa.array(["hard"] * n, pa.string()),
    }
    for name, value in derived.items():
        if name in names and name not in batch.column_names:
            batch = with_columns(batch, **{name: value()})
    return batch
