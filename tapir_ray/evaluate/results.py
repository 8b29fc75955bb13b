"""Results of a suite for one student, read from its table: scores, missing items, and contaminated ones.

found = read_results(run, table)
found.scores["6f1c…"], found.missing["2ab0…"]         # 0.5, "malformed reply"
entry(run, suite, table)                               # JSON values for `summary.json`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.dataset as pads

from tapir_ray.data.schemas import OK
from tapir_ray.evaluate.paired import bootstrap
from tapir_ray.evaluate.suite import Suite
from tapir_ray.run.layout import Table
from tapir_ray.run.run import Run

CONTAMINATED = "contaminated"
"""Column of an item whose text the student was trained on; null if its training rows are not known."""
UNKNOWN = "no score"
MEASURED = "measured"
"""Event of a table of results that is finished: `table`, `student`, and the `seconds` of the attempt."""


@dataclass
class Results:
    """Scores of the items of a table, by `instruction_id`."""

    scores: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Reason of each item without a score."""
    contaminated: set[str] | None = None
    """Items whose text the student was trained on; None if its training rows are not known."""

    def reasons(self, items: Collection[str] | None = None) -> dict[str, int]:
        """Counts the items without a score by the kind of their reason, or those of `items` alone."""
        chosen = (why for row_id, why in self.missing.items() if items is None or row_id in items)
        return dict(Counter(why.partition(":")[0] for why in chosen).most_common())


def read_results(run: Run, table: Table, split: str | None = None) -> Results:
    """Returns the results in a finished table, or those of a split. Raises StageError if the table is not finished."""
    found, files = Results(), run.files(table)
    if not files:
        return found
    rows = pads.dataset(files, filesystem=run.fs, format="parquet")
    known = CONTAMINATED in rows.schema.names
    columns = ["instruction_id", "status", "reason", "student_score", *([CONTAMINATED] if known else [])]
    marks: dict[str, bool | None] = {}
    for batch in rows.to_batches(columns=columns, filter=None if split is None else pads.field("split") == split):
        for row in batch.to_pylist():
            row_id, score = row["instruction_id"], row["student_score"]
            if row["status"] == OK and score is not None:
                found.scores[row_id] = score
            else:
                found.missing[row_id] = row["reason"] or UNKNOWN
            marks[row_id] = row.get(CONTAMINATED)
    if known and None not in marks.values():
        found.contaminated = {row_id for row_id, hit in marks.items() if hit}
    return found


def entry(run: Run, suite: Suite, table: Table) -> dict[str, Any]:
    """Returns the results of a suite for one student as JSON values.

    It has the fields of `Summary`, and:

    - `score`: mean of the items' scores with its interval; None without any.
    - `contaminated`: number of items that the student was trained on; None if it is not known.
    - `without_contaminated`: `score` over the other items; None unless there are both.
    - `seconds` of the evaluation, of the attempt that finished it.
    """
    found, seed = read_results(run, table, suite.split), suite.config.random_seed
    reported = {row_id: score for row_id, score in found.scores.items() if suite.reports(row_id)}
    dirty = None if found.contaminated is None else found.contaminated & reported.keys()
    clean = [score for row_id, score in sorted(reported.items()) if row_id not in (dirty or ())]
    seconds = [event["seconds"] for event in run.events(MEASURED) if event["table"] == table.path]
    return {
        **asdict(suite.summary(table)),
        "score": asdict(bootstrap([score for _, score in sorted(reported.items())], None, seed)) if reported else None,
        "contaminated": None if dirty is None else len(dirty),
        "without_contaminated": asdict(bootstrap(clean, None, seed)) if dirty and clean else None,
        "seconds": seconds[-1] if seconds else None,
    }
