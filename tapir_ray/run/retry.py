"""`tapir retry RUN`: removes the failed rows of a run and the outputs that depend on them, to be made again."""

from __future__ import annotations

from tapir_ray.config import Config
from tapir_ray.data.schemas import FAILED
from tapir_ray.run.layout import DATASET_ROWS, SHARDS, Layout, ShardLayout, Table
from tapir_ray.run.lineage import following
from tapir_ray.run.manifest import MANIFEST
from tapir_ray.run.resume import unpublish
from tapir_ray.run.run import Run


def retry_failed(run: Run, config: Config, layout: Layout) -> dict[str, int]:
    """Turns the first tables with failed rows into unfinished ones without these rows. Returns {table: failed rows}.

    The other rows of these tables are kept. All outputs that depend on the tables are deleted; paid answers are found
    in the cache when they are made again. Empty if no row failed. Needs a running Ray.

    In a regeneration each shard is treated on its own, and only its failed rows are made again:

    - `balance.json` does not change, because other rows were answered by it. A row that gets its task only now is in
      the dataset if its hash is among those that the task keeps, so there may be a few more rows than `balanced_rows`.
    - The cached replies of finished shards are deleted, so a row whose judging failed is answered again.
    """
    retried: dict[str, int] = {}
    stale: list[Table] = []
    # The summary belongs to a complete run.
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
    # Dependent tables first: after a crash at any point, every remaining table was made from the remaining ones.
    for table in reversed(stale):
        run.clear_working(table)  # answers of the student before the retry
        if table.path in retried:
            files, cpus = (
                run.manifest(table).files,
                config.resources.transform_cpus,
            )
            unpublish(run.path(table.path), run.fs, files, table.key, MANIFEST, cpus)
        else:
            # Also of a table that was not begun: a round has its plan before its training set.
            for file in filter(run.exists, table.files):
                run.fs.delete_file(run.path(file))
            run.clear(table)
    return retried


def _retry_shards(run: Run, layout: ShardLayout) -> dict[str, int]:
    retried: dict[str, int] = {}
    for shard in run.children(SHARDS):
        # The dependent table first, as above. A row without a label has failed in both tables.
        for table in (layout.regenerated.of(f"{SHARDS}/{shard}"), layout.labelled.of(f"{SHARDS}/{shard}")):
            manifest = run.done(table)
            if manifest is None or not manifest.count(FAILED):
                continue
            if run.exists(data := f"{DATASET_ROWS}/{shard}.parquet"):
                run.fs.delete_file(run.path(data))
            retried[table.path] = manifest.count(FAILED)
            unpublish(run.path(table.path), run.fs, manifest.files, table.key, MANIFEST)
    return retried
