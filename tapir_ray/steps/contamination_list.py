"""List of contaminated rows: each with the holdout or evaluation item that it matches, and the text they share."""

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
"""Prefix of a contaminated row's reason, as in `contamination_holdout: near_duplicate`."""
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
"""A contaminated row and the item that it matches. `contaminated_by` is `holdout` or `evaluation`, `rule` is `exact`,
`near_duplicate` or `ngram`. `shared_text` is the longest text that both have, in the normalised form of the comparison.
"""


def list_contamination(
    context: Context,
    table: Table,
    listed: Table,
    indexes: Callable[[Context], dict[str, ray.ObjectRef]] = decontaminate.indexes,
) -> None:
    """Writes `listed`: the rows of a finished table that were filtered as contaminated; empty if there are none.

    `indexes` returns the indexes that the rows were compared with.
    """
    run = context.run
    if run.done(listed):
        return
    made = run.manifest(table)
    hits = sum(count for reason, count in made.reasons.items() if reason.startswith(PREFIX))
    if not hits:
        run.write_rows(listed, listed.row_schema.empty_table())
        return
    # Tables of seed data have no `draw_id`.
    names = pads.dataset(run.files(table), filesystem=run.fs, format="parquet").schema.names
    rows = context.read(table, columns=[name for name in READ if name in names])
    rows = context.map(rows, explained, indexes=indexes(context))
    context.write(listed, rows, "list the contamination", hits)


def explained(batch: pa.Table, indexes: Mapping[str, ray.ObjectRef]) -> pa.Table:
    """Returns rows of CONTAMINATION for the contaminated rows of a batch."""
    reason = pc.fill_null(batch["reason"], "")
    hit = pc.and_(pc.equal(batch["status"], FILTERED), pc.starts_with(reason, PREFIX))
    found = []
    for row in batch.filter(hit).to_pylist():
        name, _, rule = row["reason"].removeprefix(PREFIX).partition(": ")
        index: ContaminationIndex = ray.get(indexes[name])
        # The filter stored only the rule; item and shared text are found again, for the contaminated rows alone.
        (match,) = index.find([row["messages"]])
        item = match and {
            "item_source": index.sources[match.item],
            "item_id": index.item_ids[match.item],
            "shared_text": match.shared,
        }
        found.append({**row, "contaminated_by": name, "rule": rule, **(item or {})})
    return pa.Table.from_pylist(found, schema=CONTAMINATION)


def counts(run: Tables, listed: Table) -> dict[str, dict[str, int]]:
    """Returns contaminated rows by index and rule, as `{"holdout": {"ngram": 3}}`; empty without a list."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    if run.done(listed):
        for batch in run.scan(listed, ["contaminated_by", "rule"]):
            for row in batch.to_pylist():
                found[row["contaminated_by"]][row["rule"]] += 1
    return {name: dict(sorted(rules.items())) for name, rules in sorted(found.items())}
