"""`tapir retry RUN`: ask again for the failed rows of a run, and make anew what follows from them."""

from __future__ import annotations

from tapir_ray.config import Config
from tapir_ray.data.schemas import FAILED
from tapir_ray.run.layout import DATASET_ROWS, SHARDS, Layout, ShardLayout, Table
from tapir_ray.run.lineage import following
from tapir_ray.run.manifest import MANIFEST
from tapir_ray.run.resume import unpublish
from tapir_ray.run.run import Run


def retry_failed(run: Run, config: Config, layout: Layout) -> dict[str, int]:
    """Take the first tables with failed rows back to unfinished, without these rows; returns {table: failed rows}.

    Their other rows stay and are not asked again. What follows from them is removed, to be made again; an answer that
    was paid for is found in the response cache. Empty where no row failed. Needs a running Ray.

    Of a regeneration the tables of its shards, each for itself: only their failed rows are made again. `balance.json`
    stays as it is, since other rows were answered by it: a row that gets its task only now is in the dataset where its
    hash is among those that its task keeps, so there may be a few rows more than `balanced_rows`. The replies of
    finished shards are gone: a row whose judging failed is answered again.
    """
    retried: dict[str, int] = {}
    stale: list[Table] = []
    if run.exists("summary.json"):
        run.fs.delete_file(run.path("summary.json"))
    if isinstance(layout, ShardLayout):
        return _retry_shards(run, layout)
    for table in layout.all():
        manifest = run.done(table)
        if table in stale or manifest is None or not manifest.count(FAILED):
            continue
        retried[table.path] = manifest.count(FAILED)
        stale += following([table], layout)
    # What follows first: whenever this stops, a table that is there was made from those that are there.
    for table in reversed(stale):
        if table.path in retried:
            files, cpus = run.manifest(table).files, config.resources.transform_cpus
            unpublish(run.path(table.path), run.fs, files, table.key, MANIFEST, cpus)
        elif run.exists(table.path):
            run.clear(table)
    return retried


def _retry_shards(run: Run, layout: ShardLayout) -> dict[str, int]:
    retried: dict[str, int] = {}
    for shard in run.children(SHARDS):
        # What follows first, as above; a row that got no label is a failed row of both tables.
        for table in (layout.regenerated.of(f"{SHARDS}/{shard}"), layout.labelled.of(f"{SHARDS}/{shard}")):
            manifest = run.done(table)
            if manifest is None or not manifest.count(FAILED):
                continue
            if run.exists(data := f"{DATASET_ROWS}/{shard}.parquet"):
                run.fs.delete_file(run.path(data))
            retried[table.path] = manifest.count(FAILED)
            unpublish(run.path(table.path), run.fs, manifest.files, table.key, MANIFEST)
    return retried
