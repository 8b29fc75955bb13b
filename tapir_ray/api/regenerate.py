"""`tapir.regenerate`: a dataset cleaned, labelled, answered and judged again, without a student.

run = tapir.regenerate("alpaca_data.json", "regenerate.yaml", "runs/again")
run.table("dataset").to_hf()
"""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from tapir_ray.api import launch
from tapir_ray.api.caller import Caller, Tell, ignore
from tapir_ray.api.configs import Changes, ConfigLike, configured, content_of, place_of
from tapir_ray.api.rows import Rows, arrow_of, is_ray
from tapir_ray.api.run import Run
from tapir_ray.config import Config
from tapir_ray.data.storage import Storage, sibling_uri
from tapir_ray.errors import InputError

INPUT = "-input"
"""End of the name of the folder with the rows of a dataset, next to that of the run."""
DIGEST = "_digest.json"
"""Its file with the digest of the rows, written last; a name with _ is no data."""


def regenerate(
    dataset: Rows | None,
    config: ConfigLike,
    run_dir: str | os.PathLike[str] | None = None,
    *,
    changes: Changes | None = None,
    tell: Tell | None = None,
) -> Run:
    """Regenerates a dataset, or continues, and returns the run; `run.table("dataset")` has the rows.

    - `dataset`: a path or hub id, a list of dicts, an Arrow table, a pandas frame, or a dataset of Hugging Face or
      Ray; None for `seed_data.path` of the config. Rows that are no file are written to `RUN_DIR-input`, in Parquet.
    - `config`: as in `run`, with a section `regenerate`; `seed_data.path` may be missing.
    - `tell`: gets warnings, and a line at the end of each stage.

    The same call continues a stopped regeneration. Raises InputError for a mistake that can be found beforehand, also
    for a `run_dir` that belongs to another dataset; Stopped and StageError as `run` does.
    """
    if dataset is None:
        given = configured(config, changes)
        place = place_of(given, run_dir)
    else:
        given, place = _with_rows(dataset, config, run_dir, changes)
    launch.regenerate(given, place, Caller(tell or ignore))
    return Run.open(place)


def _with_rows(
    dataset: Any, config: ConfigLike, run_dir: str | os.PathLike[str] | None, changes: Changes | None
) -> tuple[Config, str]:
    """Returns the config that reads the dataset, and the place of its run."""
    content = content_of(config)
    seed = content.get("seed_data")
    seed = dict(seed) if isinstance(seed, dict) else {}

    def reading(path: str) -> Config:
        return configured({**content, "seed_data": {**seed, "path": path}}, changes)

    if isinstance(dataset, (str, os.PathLike)):
        given = reading(str(dataset))
        return given, place_of(given, run_dir)
    # Refuses the config before the rows are written.
    place = place_of(reading("rows.parquet"), run_dir)
    folder = Storage.at(sibling_uri(place, INPUT))
    store(dataset, folder)
    return reading(folder.uri), place


def store(dataset: Any, folder: Storage) -> None:
    """Writes the rows of a dataset to Parquet files in a folder, once.

    Raises InputError if the folder has other rows. Of a Ray Dataset only the number of rows is compared.
    """
    if is_ray(dataset):
        mine = {"rows": dataset.count()}
    else:
        table = arrow_of(dataset)
        mine = {"rows": len(table), "digest": _digest(table)}
    if not mine["rows"]:
        raise InputError("the dataset has no rows")
    stored = folder.find_json(DIGEST)
    if stored is not None and stored != mine:
        raise InputError(f"{folder.uri} has the rows of another dataset: use another run_dir, or delete both folders")
    if stored is not None:
        return
    folder.fs.create_dir(folder.root, recursive=True)
    for name in folder.children(""):
        folder.fs.delete_file(folder.path(name))  # of a call that was killed while it wrote
    if is_ray(dataset):
        dataset.write_parquet(folder.root, filesystem=folder.fs)
    else:
        pq.write_table(table, folder.path("rows.parquet"), filesystem=folder.fs)
    folder.write_json(DIGEST, mine)


def _digest(table: pa.Table) -> str:
    """Returns a hash of the columns and rows of a table, whatever its chunks are."""
    digest = xxhash.xxh3_128(str(table.schema.remove_metadata()).encode())
    for batch in table.to_batches():
        for row in batch.to_pylist():
            digest.update(repr(row).encode())
    return digest.hexdigest()
