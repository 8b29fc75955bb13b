"""`tapir retry RUN`: ask again for the failed rows of a run, and make anew what follows from them."""

from __future__ import annotations

from tapir_ray.config import Config
from tapir_ray.data.schemas import DRAW, FAILED, ID, SOURCE_AND_ID
from tapir_ray.run import layout
from tapir_ray.run.blocks import Key
from tapir_ray.run.lineage import following
from tapir_ray.run.manifest import MANIFEST
from tapir_ray.run.resume import unpublish
from tapir_ray.run.run import Run


def retry_failed(run: Run, config: Config) -> dict[str, int]:
    """Take the first tables with failed rows back to unfinished, without these rows; returns {table: failed rows}.

    Their other rows stay and are not asked again. What follows from them is removed, to be made again; an answer that
    was paid for is found in the response cache. Empty where no row failed. Needs a running Ray.

    Of a regeneration the tables of its shards, each for itself: only their failed rows are made again. `balance.json`
    stays as it is, since other rows were answered by it: a row that gets its task only now is in the dataset where its
    hash is among those that its task keeps, so there may be a few rows more than `balanced_rows`. The replies of
    finished shards are gone: a row whose judging failed is answered again.
    """
    retried: dict[str, int] = {}
    stale: list[str] = []
    if run.exists("summary.json"):
        run.fs.delete_file(run.path("summary.json"))
    if config.regenerate is not None:
        return _retry_shards(run)
    for output in following({"seed/read"}, config):
        manifest = run.done(output)
        if output in stale or manifest is None or not manifest.count(FAILED):
            continue
        retried[output] = manifest.count(FAILED)
        stale += following({output}, config)
    # What follows first: whenever this stops, a table that is there was made from those that are there.
    for output in reversed(stale):
        if output in retried:
            files, cpus = run.manifest(output).files, config.resources.transform_cpus
            unpublish(run.path(output), run.fs, files, key_of(output), MANIFEST, cpus)
        elif run.exists(output):
            run.clear(output)
    return retried


def _retry_shards(run: Run) -> dict[str, int]:
    retried: dict[str, int] = {}
    for shard in run.children("shards"):
        # What follows first, as above; a row that got no label is a failed row of both tables.
        for table in (f"shards/{shard}/{layout.REGENERATED}", f"shards/{shard}/{layout.LABELLED}"):
            manifest = run.done(table)
            if manifest is None or not manifest.count(FAILED):
                continue
            if run.exists(data := f"{layout.DATASET_ROWS}/{shard}.parquet"):
                run.fs.delete_file(run.path(data))
            retried[table] = manifest.count(FAILED)
            unpublish(run.path(table), run.fs, manifest.files, SOURCE_AND_ID, MANIFEST)
    return retried


def key_of(table: str) -> Key:
    """The key that a table is written with."""
    if table.endswith(("/expanded", "/checked", "/generated")):
        return DRAW
    return SOURCE_AND_ID if table == "seed/instructions" else ID
