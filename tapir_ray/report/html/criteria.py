"""Mean score of each criterion of the judge's rubrics, by table of scores."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tapir_ray.report.html.section import Grid
from tapir_ray.report.html.view import View
from tapir_ray.run.layout import Table

COLUMN = "criterion_scores"


@dataclass
class Mean:
    """Sums of a criterion over the rows that were scored by it."""

    rows: int = 0
    teacher: float = 0.0
    student: float = 0.0


def criteria(view: View, tables: Sequence[tuple[str, Table]]) -> Grid | None:
    """Returns the means of both answers by table and criterion; None if the judge has no rubric, or scored nothing."""
    if view.config.judge.mode != "rubric":
        return None
    lines = [
        [name, criterion, of_one.rows, of_one.teacher / of_one.rows, of_one.student / of_one.rows,
         (of_one.teacher - of_one.student) / of_one.rows]
        for name, table in tables
        for criterion, of_one in means(view, table).items()
    ]  # fmt: skip
    columns = ("scores of", "criterion", "rows", "teacher", "student", "difference")
    return Grid("Mean score by criterion", columns, lines) if lines else None


def means(view: View, table: Table) -> dict[str, Mean]:
    """Returns the sums by criterion of a table of scores, in the order of their names."""
    found: dict[str, Mean] = defaultdict(Mean)
    for batch in view.scan(table, [COLUMN]):
        for text in filter(None, batch[COLUMN].to_pylist()):
            scores = json.loads(text)
            for criterion, teacher in scores["teacher"].items():
                mean = found[criterion]
                mean.rows += 1
                mean.teacher += teacher
                mean.student += scores["student"][criterion]
    return dict(sorted(found.items()))
