"""A dataset produced anew, without training: filtered, labelled, rebalanced, answered and judged, shard by shard.

What depends on all rows (repeats, the tasks' quotas) is done over all shards, the rest in shards of their own tables.
As in `tapir.py` a table that is there is not made again, and a shard that was begun goes on at its rows.
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
    """Do the operations of `config.regenerate`; returns the summary.

    Leaves `shards/NNNNN/regenerated`, every row read with what has become of it, and `dataset/`, the rows that are ok,
    with a card. Raises InputError for data that cannot be used, StageError and Stopped as the steps do.
    """
    settings, tables = context.config.regenerate, context.shards
    assert settings is not None
    clean(context)  # all rows: repeats, near-duplicates and overlaps filtered
    with context.progress.stage("cut into shards"):
        shards, labelled = cut_table(context.run, tables.ingested, settings.shards.rows), [tables.ingested]
    if settings.does("classify"):
        shards = reanswer.label_shards(context, shards)
        labelled = [tables.labelled.of(shard.name) for shard in shards]
    chosen = balance(context, labelled)  # how many of each task, and by hash which
    reanswer.reanswer(context, shards, chosen)  # answered, rewritten, and the better answer kept
    return dataset.publish(context, shards)


def layout(config: Config) -> ShardLayout:
    """The outputs of a regeneration: the rows read and cleaned, and two tables of each shard."""
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
    # Written with the dataset, whose card has the same numbers.
    summarise=lambda context: context.run.read_json("summary.json"),
    show=lambda made, _, file: print_made(made, file),
    estimate=estimated_regeneration,
    assumes=("no row is filtered but by regenerate.balanced_rows, and answers are missing in each task alike",),
    asks=_asks,
    trains=False,
    needs_tasks=False,
)
