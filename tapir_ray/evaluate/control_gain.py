"""Gain of the curriculum's student over its control: the difference of their judge scores on the same holdout rows.

    gain = control_gain(run, layout, 2, random_seed=0)
    sentence("sft", gain)           # "curriculum +0.41 [+0.12, +0.70] over plain SFT (400 rows): the curriculum paid"

All holdout rows count, also those that choose the best round: the rounds to compare are not chosen by their scores.
"""

from __future__ import annotations

from typing import Any

from tapir_ray.evaluate.holdout_scores import Scores, mean_scores, read_scores
from tapir_ray.evaluate.paired import Gain, in_words, paired_gain, rows_in_words
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run

CONTROLS = {"sft": "plain SFT", "random": "unselected expansions"}
"""Controls by the value of `control`, in words."""


def control_gain(run: Run, layout: LoopLayout, round_number: int, random_seed: int) -> Gain | None:
    """Returns the gain after a round; None without a row that both students have a score for."""
    return gain_over(run, layout.control(round_number).evaluation, layout.judged_holdout(round_number), random_seed)


def gain_over(run: Run, before: Table, after: Table, random_seed: int) -> Gain | None:
    """Returns the mean difference of the holdout scores of two tables; None without common rows."""
    old, new = values(read_scores(run, before)), values(read_scores(run, after))
    return paired_gain(old, new, random_seed) if old.keys() & new.keys() else None


def values(scores: Scores) -> dict[str, float]:
    """Returns the scores by id of the row, without their tasks."""
    return {row_id: score for row_id, (_, score) in scores.items()}


def scores_of_both(run: Run, layout: LoopLayout, round_number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns `mean`, `rows` and `by_task` of the control and of the student, over the rows that both have."""
    found = [
        read_scores(run, table)
        for table in (layout.control(round_number).evaluation, layout.judged_holdout(round_number))
    ]
    common = sorted(found[0].keys() & found[1].keys())
    control, student = (mean_scores(scores[row_id] for row_id in common) for scores in found)
    return control, student


def sentence(control: str, gain: Gain) -> str:
    """Returns the gain and what it says, in one line; a loss is told as plainly as a gain."""
    over = CONTROLS[control]
    better = "plain SFT is better" if control == "sft" else "they are better"
    says = {1: "the curriculum paid", -1: better, 0: "no difference is shown"}[gain.sign]
    return f"curriculum {in_words(gain)} over {over} ({rows_in_words(gain)}): {says}"
