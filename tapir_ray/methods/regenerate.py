"""Regenerates a dataset without training: rows are filtered, labelled, rebalanced, answered and judged.

Repeats and task quotas depend on all rows, so those steps read the whole dataset. All other steps work shard by shard.
A finished table is never written again. A started shard continues at its missing rows.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tapir_ray.config import Config
from tapir_ray.cost.estimate import estimated_regeneration
from tapir_ray.data.schemas import INSTRUCTIONS, SOURCE_AND_ID
from tapir_ray.methods.method import Method
from tapir_ray.report.dataset import print_made
from tapir_ray.run.layout import SEED_FILE, ShardLayout, Table
from tapir_ray.steps import dataset, reanswer
from tapir_ray.steps.clean import clean
from tapir_ray.steps.contamination_list import CONTAMINATION
from tapir_ray.steps.context import Context
from tapir_ray.steps.rebalance import balance
from tapir_ray.steps.shards import cut_table
from tapir_ray.transforms.ingest import PARSED


def regenerate(context: Context) -> dict[str, Any]:
    """Runs the operations of `config.regenerate` and returns the summary.

    Writes `shards/NNNNN/regenerated` (every row that was read, with its status and reason) and `dataset/` (the ok rows
    and a dataset card). Raises InputError for unusable data, and StageError and Stopped as the steps do.
    """
    settings, tables = context.config.regenerate, context.shards
    assert settings is not None
    clean(context)  # filters repeats, near-duplicates and contaminated rows over the whole dataset
    with context.progress.stage("cut into shards"):
        shards, labelled = cut_table(context.run, tables.ingested, settings.shards.rows), [tables.ingested]
    if settings.does("classify"):
        shards = reanswer.label_shards(context, shards)
        labelled = [tables.labelled.of(shard.name) for shard in shards]
    chosen = balance(context, labelled)  # a quota for each task; its rows are drawn by hash
    reanswer.reanswer(context, shards, chosen)  # answers, rewrites and keeps the better answer
    return dataset.publish(context, shards)


def layout(config: Config) -> ShardLayout:
    """Returns the tables of a regeneration: those of the whole dataset in `seed/`, and two for each shard."""
    read = Table("seed/read", PARSED, SOURCE_AND_ID, stage="clean", files=(SEED_FILE,))
    evaluation_sets = Table("seed/evaluation_sets", PARSED, SOURCE_AND_ID, (read,), "clean")
    common_ngrams = Table("seed/common_ngrams", pa.schema([("hash", pa.uint64())]), inputs=(read,))
    checked = Table("seed/checked", INSTRUCTIONS, SOURCE_AND_ID, (read, common_ngrams, evaluation_sets), "clean")
    bands = Table("seed/bands", inputs=(checked, common_ngrams))
    ingested = Table("seed/ingested", INSTRUCTIONS, SOURCE_AND_ID, (checked, bands), "clean")
    labelled = Table("shards/*/labelled", INSTRUCTIONS, SOURCE_AND_ID, (ingested,), "classify")
    return ShardLayout(
        read=read,
        evaluation_sets=evaluation_sets,
        common_ngrams=common_ngrams,
        checked=checked,
        ingested=ingested,
        contamination=Table("seed/contamination", CONTAMINATION, inputs=(ingested,), stage="clean"),
        seed_bands=bands,
        labelled=labelled,
        regenerated=Table("shards/*/regenerated", reanswer.REGENERATED, SOURCE_AND_ID, (labelled,), "reanswer"),
    )


def _asks(config: Config) -> bool:
    return config.regenerate is not None and config.regenerate.asks(config.classify)


REGENERATE = Method(
    layout=layout,
    run=lambda context, _: regenerate(context),
    # `publish` has written it with the dataset card, so that both show the same numbers.
    summarise=lambda context: context.run.read_json("summary.json"),
    show=lambda made, _, file: print_made(made, file),
    estimate=estimated_regeneration,
    assumes=("only regenerate.balanced_rows filters rows, and the same share of answers is missing in every task",),
    asks=_asks,
    trains=False,
    needs_tasks=False,
)
