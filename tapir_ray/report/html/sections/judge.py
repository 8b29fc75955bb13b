"""Section: how far the judge can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.report.html import charts
from tapir_ray.report.html.criteria import criteria
from tapir_ray.report.html.section import Block, Figure, Grid, Notes, Section
from tapir_ray.report.html.view import View
from tapir_ray.run.layout import Table

REFUSALS, UNREAD = "judge_", "unparseable_scores"
"""Beginnings of the reasons of rows that the judge refused, and of rows whose reply held no scores."""

READ_AS = (
    "“orders agree”: rows for which both orders prefer the same answer, or both see a tie. “r with length”: "
    "correlation of score and length of the answers; far from 0, the judge may pay for length."
)

CRITERIA_READ_AS = (
    "A criterion's rows are those of the tasks whose rubric has it, so criteria of different tasks are not comparable. "
    "The difference is the teacher's mean minus the student's."
)


@dataclass
class Orders:
    """Rows judged in both orders. They agree if the same answer is better in both, or both are ties."""

    rows: int = 0
    agree: int = 0

    @property
    def share(self) -> float | None:
        return self.agree / self.rows if self.rows else None


def section(view: View) -> Section:
    """Returns noise, position gap, agreement by order and refusals, by table of scores."""
    title, says = "Judge", (
        "How far the judge can be trusted: its noise σ, how much the order of the answers changes its scores, and what "
        "it refused to score."
    )  # fmt: skip
    if view.loop is None:
        return Section("judge", title, says, missing="A regeneration has no scores of a student.")
    tables = [(f"round {n}", one.scored) for n, one in enumerate(view.loop.rounds, 1)]
    tables.append(("last student", view.loop.evaluation))
    tables += [(f"control {n}", one.evaluation) for n, one in enumerate(view.loop.controls, 1)]
    lines, rows = [], []
    for name, table in tables:
        made, stats = view.run.done(table), view.stats_of(table, holdout=True)
        judged = sum(task.judged for task in stats.by_task.values()) if stats else 0
        if made is None or stats is None or not (judged or made.reasons or made.errors):
            continue
        both = orders(view, table)
        refused = sum(count for reason, count in made.reasons.items() if reason.startswith(REFUSALS))
        unread = sum(count for reason, count in made.errors.items() if reason.startswith(UNREAD))
        share = both.share
        lines.append([name, judged, stats.noise, stats.position_gap, None if share is None else f"{share:.1%}",
                      stats.length_correlation, refused, unread])  # fmt: skip
        for measure, value in (("noise σ", stats.noise), ("position gap", stats.position_gap)):
            if value is not None:
                rows.append({"table": name, "points of": measure, "points": round(value, 3)})
    if not lines:
        return Section("judge", title, says, missing="The judge has scored nothing yet.")
    columns = ("scores of", "judged rows", "noise σ", "position gap", "orders agree", "r with length", "refused",
               "without scores")  # fmt: skip
    grid = Grid("Judge by table of scores", columns, lines)
    blocks: list[Block] = []
    if any(row["points"] for row in rows):
        spec = charts.bars(rows, "table", "points", "points of", "Noise and position gap of the judge", stacked=False,
                           unit="points of the scale 1 to 10")  # fmt: skip
        blocks.append(
            Figure(
                "Noise and position gap",
                "σ of a single difference of two scores (judged twice), and the mean change of that difference when "
                "the answers swap places. A gain that is much smaller than σ needs many rows to be seen.",
                spec,
                grid,
            )
        )
    else:
        blocks.append(grid)
    if all(line[2] is None for line in lines):
        blocks.append(Notes([_why_no_noise(view)]))
    blocks.append(Notes([READ_AS]))
    if (by_criterion := criteria(view, tables)) is not None:
        blocks += [by_criterion, Notes([CRITERIA_READ_AS])]
    return Section("judge", title, says, blocks)


def _why_no_noise(view: View) -> str:
    judge = view.config.judge
    if not judge.repeat_share:
        return "σ is not measured: judge.repeat_share is 0."
    if not judge.repeated_at(view.config.judge_endpoint):
        return "σ is not measured: rows are not judged twice at a temperature of 0 (judge.repeat_temperature)."
    return "σ is not measured: too few rows were judged twice, or every second reply repeated the first."


def orders(view: View, table: Table) -> Orders:
    """Returns how many rows of a table were judged in both orders, and for how many the orders agree."""
    found = Orders()
    for batch in view.scan(table, ["teacher_score", "student_score", "position_gap"]):
        found.rows += len(batch.filter(_judged(batch)))
        found.agree += agreeing(batch.filter(_judged(batch)))
    return found


def _judged(rows: pa.Table) -> pa.ChunkedArray:
    found = pc.and_(pc.is_valid(rows["teacher_score"]), pc.is_valid(rows["student_score"]))
    return pc.and_(found, pc.is_valid(rows["position_gap"]))


def agreeing(rows: pa.Table) -> int:
    """Counts rows whose two orders agree.

    The scores are means of both orders, so the differences of the orders are mfd ± gap / 2. They have the same sign if
    |mfd| > gap / 2, and are both 0 if both are 0.
    """
    mfd = pc.abs(pc.subtract(rows["teacher_score"], rows["student_score"]))
    half = pc.divide(rows["position_gap"], 2.0)
    same = pc.or_(pc.greater(mfd, half), pc.equal(rows["position_gap"], 0.0))
    return pc.sum(same).as_py() or 0
