"""What must not be trained on: indexes of the holdout and of evaluation sets, and the near-duplicate bands of a run."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from tapir_ray.context import Context, round_dir
from tapir_ray.records import HOLDOUT, OK, SEED, with_columns
from tapir_ray.sources import list_files
from tapir_ray.stages.filter import mark_overlaps, overlap_index, seed_bands
from tapir_ray.stages.ingest import parse_sources


def filter_seed(context: Context, rows: ray.data.Dataset) -> ray.data.Dataset:
    """The rows with those seed rows filtered that overlap with the holdout or an evaluation set; lazy.

    Needs `seed/split`. The holdout's own rows pass untouched.
    """
    hidden = context.map(rows, _only_seed_ok)
    return context.map(mark_overlaps(hidden, indexes(context, "seed/split"), context.config), _shown)


def indexes(context: Context, table: str = "seed/instructions") -> dict[str, ray.ObjectRef]:
    """By name, a reference to the overlap index of the holdout rows in `table`, and of `filter.evaluation_sets`."""
    config = context.config
    found = {}
    if config.holdout.rows:
        held = context.map(context.read(table, columns=["messages", "split", "status"]), _held)
        found["holdout"] = overlap_index(held, config)
    files = [file for path in config.filter.evaluation_sets for file in list_files(path)]
    if files:
        seed_data = config.seed_data.model_copy(update={"limit": None, "turns": "last", "format": "auto"})
        found["evaluation"] = overlap_index(parse_sources(files, seed_data, context.stage_cpus), config)
    return found


def bands_of(context: Context, round_number: int) -> str:
    """Folder of the near-duplicate bands of a round's rows; those of the seed data are written when first asked for."""
    folder = f"{round_dir(round_number)}/bands"
    path = f"{context.run.uri}/{folder}"
    if round_number == 0 and not context.run.done(folder):
        columns = ["instruction_id", "messages", "status"]
        seed_bands(context.read("seed/instructions", columns=columns), context.config, path)
        context.run.publish(folder)
    return path


def _held(batch: pa.Table) -> pa.Table:
    return batch.filter(pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK)))


HIDDEN = "hidden"


def _only_seed_ok(batch: pa.Table) -> pa.Table:
    """The filters look at ok rows: those of the holdout are given another status for as long."""
    hide = pc.and_(pc.not_equal(batch["split"], SEED), pc.equal(batch["status"], OK))
    return with_columns(batch, status=pc.if_else(hide, HIDDEN, batch["status"]))


def _shown(batch: pa.Table) -> pa.Table:
    return with_columns(batch, status=pc.if_else(pc.equal(batch["status"], HIDDEN), OK, batch["status"]))
