"""Judge's scores of the holdout after each round: selects the best round and reports the score of every round.

    scores = holdout_scores(run, layout, random_seed=0, select_share=0.5)
    scores.best, scores.reported[2]["mean"]

The highest of several noisy means overestimates its round. So the holdout has two halves: one selects the best round,
the other is reported. Rounds are compared on the rows that all of them scored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow.compute as pc

from tapir_ray.data.schemas import HOLDOUT, OK, in_share
from tapir_ray.evaluate.suite import NO_TASK, summarised
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run

Scores = dict[str, tuple[str, float]]
"""By id of a holdout row: its task and the judge's score of the student's answer."""


@dataclass(frozen=True)
class HoldoutScores:
    """Scores of the student after round 0 (the initial SFT), 1, 2, …"""

    reported: list[dict[str, Any]]
    """By round: `mean` (None without rows), `rows` and `by_task` over the reporting half."""
    selecting: list[float | None]
    """By round: mean over the selecting half."""
    selecting_rows: int
    best: int
    """Round with the highest selecting mean, the first of equals; the last round if none was scored."""


def holdout_scores(run: Run, layout: LoopLayout, random_seed: int, select_share: float) -> HoldoutScores:
    """Returns the scores of every round's student on the rows that all scored rounds have in common.

    A round that began with the user's own training set (`--from train`) was not scored and has no rows.
    """
    rounds = len(layout.rounds)
    found = [read_scores(run, layout.judged_holdout(number)) for number in range(rounds + 1)]
    scored = [scores for scores in found if scores]
    # A row that one judge call failed on would otherwise be in the mean of some rounds only.
    common = set.intersection(*(set(scores) for scores in scored)) if scored else set()
    choosing = {row_id for row_id in common if selects(row_id, random_seed, select_share)}
    reporting = common - choosing
    selecting = [fmean(scores[row_id][1] for row_id in choosing) if scores and choosing else None for scores in found]
    numbers = [number for number, mean in enumerate(selecting) if mean is not None]
    # `max` returns the first of equal means, so a tie goes to the earlier round.
    best = max(numbers, key=lambda number: selecting[number] or 0.0, default=rounds)
    reported = [mean_scores(scores[row_id] for row_id in sorted(reporting) if scores) for scores in found]
    return HoldoutScores(reported, selecting, len(choosing), best)


def selects(row_id: str, random_seed: int, select_share: float) -> bool:
    """Returns True for a row of the half that selects the best round. It depends on id and seed alone."""
    return in_share(row_id, random_seed, select_share, "select")


def reported_score(run: Run, table: Table, random_seed: int, select_share: float) -> dict[str, Any]:
    """Returns `mean`, `rows` and `by_task` over the reporting half of one table, without comparing rounds."""
    return mean_scores(reported_scores(run, table, random_seed, select_share))


def reported_scores(run: Run, table: Table, random_seed: int, select_share: float) -> list[tuple[str, float]]:
    """Returns (task, score) of the rows in a table's reporting half; empty if the table is not finished."""
    scores = read_scores(run, table)
    return [score for row_id, score in scores.items() if not selects(row_id, random_seed, select_share)]


def read_scores(run: Run, table: Table) -> Scores:
    """Returns the scores of a table's holdout rows; empty if the table is not finished."""
    scores: Scores = {}
    columns = ["instruction_id", "split", "task", "status", "student_score"]
    for batch in run.scan(table, columns) if run.done(table) else ():
        ok = pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK))
        for row in batch.filter(pc.and_(ok, pc.is_valid(batch["student_score"]))).to_pylist():
            scores[row["instruction_id"]] = (row["task"] or NO_TASK, row["student_score"])
    return scores


def mean_scores(scores: Iterable[tuple[str, float]]) -> dict[str, Any]:
    """Returns `mean` (None without rows), `rows`, and the means `by_task`."""
    found = summarised(scores)
    return {"mean": found.mean, "rows": found.rows, "by_task": found.by_category}
