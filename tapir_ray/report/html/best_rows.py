"""Rows with the highest values of a column, read batch by batch."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.data.schemas import OK
from tapir_ray.report.html.view import View
from tapir_ray.run.layout import Table


def highest(view: View, table: Table, columns: list[str], by: str, most: int) -> list[dict[str, Any]]:
    """Returns the `most` ok rows with an answer of the student that have the highest values of `by`."""
    best: pa.Table | None = None
    for batch in view.scan(table, columns):
        ok = pc.and_(pc.equal(batch["status"], OK), pc.is_valid(batch[by]))
        rows = batch.filter(pc.and_(ok, pc.is_valid(batch["student_response"])))
        together = rows if best is None else pa.concat_tables([best, rows])
        best = together.take(pc.sort_indices(together, [(by, "descending"), ("instruction_id", "ascending")])[:most])
    return [] if best is None else best.to_pylist()
