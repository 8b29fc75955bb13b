"""Items of a suite whose text a student was trained on.

    found = contaminated_items(context, suite, [loop.sft_training, loop.training(1)])   # {item's id: id of a pair}
    rows = context.map(rows, with_marks, found=found)

The comparison is that of the run's filters (`filter.ngram`, `filter.near_duplicate`). Training rows that overlap with
the items of a suite are filtered, so marks come from suites that a run got after it had read its seed data, and from
rows that `--from` has brought.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from tapir_ray.data.contamination_index import ContaminationIndex
from tapir_ray.data.schemas import INSTRUCTIONS, conform, with_columns
from tapir_ray.evaluate.suite import Suite
from tapir_ray.run.layout import Table
from tapir_ray.steps import decontaminate
from tapir_ray.steps.context import Context
from tapir_ray.transforms.filters.contamination import contamination_index

MARKS = pa.schema([("contaminated", pa.bool_()), ("contaminated_by", pa.string())])
"""Whether the student was trained on the item's text (null if its training rows are not known), and the `pair_id` of
such a row."""
HITS = pa.schema([("item", pa.string()), ("pair_id", pa.string()), ("messages", INSTRUCTIONS.field("messages").type)])
PROBE = "probe"


def contaminated_items(context: Context, suite: Suite, trained_on: Sequence[Table]) -> dict[str, str]:
    """Returns the `pair_id` of a training row by the `instruction_id` of each item whose text it has."""
    tables = [table for table in trained_on if context.run.manifest(table).rows]
    if not tables:
        return {}
    items = decontaminate.texts_of_items(context, suite)
    with context.progress.stage("look for the items in the training rows"):
        boilerplate = decontaminate.boilerplate(context)
        index = contamination_index(items, context.config, boilerplate)
        rows = context.read(*tables, columns=["pair_id", "messages", "pool"])
        hits = pa.concat_tables([HITS.empty_table(), *_batches(context.map(rows, _hits, index=[index]))]).to_pylist()
        found = {hit["item"]: hit["pair_id"] for hit in hits}
        # A row is found by its most similar item alone: it is compared with the others as long as it has one of them.
        while hits:
            left = context.map(items, _without, found=found)
            hits = _find(ray.get(contamination_index(left, context.config, boilerplate)), hits)
            found |= {hit["item"]: hit["pair_id"] for hit in hits}
    return found


def with_marks(batch: pa.Table, found: Mapping[str, str] | None) -> pa.Table:
    """Returns the rows with the columns of MARKS."""
    ids = batch["instruction_id"].to_pylist()
    by = [None if found is None else found.get(row_id) for row_id in ids]
    hit = [None if found is None else row_id in found for row_id in ids]
    return with_columns(batch, contaminated=pa.array(hit, pa.bool_()), contaminated_by=pa.array(by, pa.string()))


def _without(batch: pa.Table, found: Mapping[str, str]) -> pa.Table:
    return batch.filter(pc.invert(pc.is_in(batch["source"], pa.array(list(found), pa.string()))))


def _hits(batch: pa.Table, index: list[ray.ObjectRef]) -> pa.Table:
    trained = batch.filter(pc.not_equal(pc.fill_null(batch["pool"], ""), PROBE))
    return conform(_find(ray.get(index[0]), trained.to_pylist()), HITS)


def _find(index: ContaminationIndex, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows that have the text of an item, with its id as `item`."""
    matches = index.find([row["messages"] for row in rows]) if rows and index.item_ids else [None] * len(rows)
    return [
        {"item": index.sources[match.item], "pair_id": row["pair_id"], "messages": row["messages"]}
        for row, match in zip(rows, matches, strict=True)
        if match is not None
    ]


def _batches(rows: ray.data.Dataset) -> Iterator[pa.Table]:
    for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        if len(batch):
            yield conform(batch, HITS)
