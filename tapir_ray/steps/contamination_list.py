"""The list of contaminated rows: each row that was filtered for it, the item that it is like and the text they
share."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import ray

from tapir_ray.data.contamination_index import ContaminationIndex
from tapir_ray.data.schemas import FILTERED
from tapir_ray.run.layout import Table
from tapir_ray.run.tables import Tables
from tapir_ray.steps import decontaminate
from tapir_ray.steps.context import Context

PREFIX = "contamination_"
"""Begins the reason of a contaminated row; the name of the index, a colon and the rule follow."""
READ = ("instruction_id", "draw_id", "source", "messages", "status", "reason")
CONTAMINATION = pa.schema(
    [
        ("instruction_id", pa.string()),
        ("draw_id", pa.string()),
        ("source", pa.string()),
        ("contaminated_by", pa.string()),
        ("item_source", pa.string()),
        ("item_id", pa.string()),
        ("rule", pa.string()),
        ("shared_text", pa.string()),
    ]
)
"""A row and its place, `holdout` or `evaluation`, the item there and its place, the rule (exact, near_duplicate or
ngram), and the longest text that both have, in the form in which it is compared."""


def list_contamination(
    context: Context,
    table: Table,
    listed: Table,
    indexes: Callable[[Context], dict[str, ray.ObjectRef]] = decontaminate.indexes,
) -> None:
    """Write the table `listed` of the rows of a finished table that were filtered for contamination; empty without any.

    `indexes` gives the indexes that they were found by.
    """
    run = context.run
    if run.done(listed):
        return
    made = run.manifest(table)
    hits = sum(count for reason, count in made.reasons.items() if reason.startswith(PREFIX))
    if not hits:
        run.write_rows(listed, listed.row_schema.empty_table())
        return
    names = pads.dataset(run.files(table), filesystem=run.fs, format="parquet").schema.names
    rows = context.read(table, columns=[name for name in READ if name in names])
    rows = context.map(rows, explained, indexes=indexes(context))
    context.write(listed, rows, "list the contamination", hits)


def explained(batch: pa.Table, indexes: Mapping[str, ray.ObjectRef]) -> pa.Table:
    """The rows of CONTAMINATION for those of the batch that were filtered for contamination with an index."""
    reason = pc.fill_null(batch["reason"], "")
    hit = pc.and_(pc.equal(batch["status"], FILTERED), pc.starts_with(reason, PREFIX))
    found = []
    for row in batch.filter(hit).to_pylist():
        name, _, rule = row["reason"].removeprefix(PREFIX).partition(": ")
        index: ContaminationIndex = ray.get(indexes[name])
        (match,) = index.find([row["messages"]])
        item = match and {
            "item_source": index.sources[match.item],
            "item_id": index.item_ids[match.item],
            "shared_text": match.shared,
        }
        found.append({**row, "contaminated_by": name, "rule": rule, **(item or {})})
    return pa.Table.from_pylist(found, schema=CONTAMINATION)


def counts(run: Tables, listed: Table) -> dict[str, dict[str, int]]:
    """How many rows are contaminated, by what with and by rule; empty without a list."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    if run.done(listed):
        for batch in run.scan(listed, ["contaminated_by", "rule"]):
            for row in batch.to_pylist():
                found[row["contaminated_by"]][row["rule"]] += 1
    return {name: dict(sorted(rules.items())) for name, rules in sorted(found.items())}
