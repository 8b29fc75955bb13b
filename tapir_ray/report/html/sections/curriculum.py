"""Section: α, δ and the difficulty of the rows, by round."""

from __future__ import annotations

from typing import Any

from tapir_ray.curriculum.stats import ScoreStats
from tapir_ray.report.html import charts
from tapir_ray.report.html.section import Block, Figure, Grid, Notes, Section
from tapir_ray.report.html.view import View

MOST_BINS, MOST_SHOWN = 24, 5
ROUNDING = 1e-9
"""Added before a division: 0.3 // 0.1 is 2."""


def section(view: View) -> Section:
    """Returns the plan of each round and the histograms of difficulty."""
    title, says = "Curriculum", (
        "The challenge share α, the threshold δ from which a row is hard, and how difficult the rows were, by round."
    )  # fmt: skip
    if view.loop is None or not view.loop.rounds:
        return Section("curriculum", title, says, missing="The run has no rounds.")
    planned = [number for number in view.rounds if view.plan(number)]
    if not planned:
        return Section("curriculum", title, says, missing="No round is planned yet.")
    blocks: list[Block] = [_alpha(view, planned)]
    if any(view.plan(number)["threshold"] is not None for number in planned):
        blocks.append(_delta(view, planned))
    blocks.append(plans(view, planned))
    histograms = {number: stats for number in planned if (stats := view.stats(number, False)) and stats.reliable}
    if histograms:
        blocks.append(histogram(view, histograms))
    elif view.config.curriculum.difficulty.select == "none":
        blocks.append(
            Notes(["No histogram of difficulty: under curriculum.difficulty.select none only the holdout is scored."])
        )
    else:
        blocks.append(Notes(["No histogram of difficulty: no row has a difficulty."]))
    return Section("curriculum", title, says, blocks)


def _alpha(view: View, planned: list[int]) -> Figure:
    rows: list[dict[str, Any]] = []
    for number in planned:
        plan, mix = view.plan(number), view.mix(number)
        rows.append({"share": "α asked", "round": number, "value": plan["alpha_asked"]})
        rows.append({"share": "α used", "round": number, "value": mix.get("alpha", plan["alpha"])})
        if "share" in mix:
            rows.append({"share": "hard share of the training set", "round": number, "value": round(mix["share"], 4)})
    rows.sort(key=lambda row: ("α asked", "α used").index(row["share"]) if "α" in row["share"] else 2)
    spec = charts.lines(rows, "round", "value", "share", "α by round", zero=True, dashed=["α asked"], form="%")
    says = "The share of hard rows that the config asks for, that the pools allowed, and that was mixed."
    return Figure("Challenge share α", says, spec)


def _delta(view: View, planned: list[int]) -> Figure:
    asked, used, ceiling, mean = "δ asked", "δ used", "highest difficulty of a hard row", "mean difficulty"
    rows: list[dict[str, Any]] = []
    for number in planned:
        plan, stats = view.plan(number), view.stats(number, False)
        values = {asked: plan["threshold_asked"], used: plan["threshold"], ceiling: plan["ceiling"],
                  mean: stats and stats.mean_difficulty}  # fmt: skip
        rows += [
            {"of": name, "round": number, "difficulty": value} for name, value in values.items() if value is not None
        ]
    rows.sort(key=lambda row: (asked, used, ceiling, mean).index(row["of"]))
    spec = charts.lines(rows, "round", "difficulty", "of", "δ and mean difficulty by round", dashed=[asked])
    says = "Rows of difficulty δ and above are hard. A mean that falls below δ leaves few of them."
    return Figure("Threshold δ", says, spec)


def plans(view: View, planned: list[int]) -> Grid:
    """Returns the numbers of each round's plan and mix."""
    columns = ("round", "α", "δ asked", "δ", "hard", "easy", "unreliable", "mean difficulty", "draws", "training size")
    lines = []
    for number in planned:
        plan, mix = view.plan(number), view.mix(number)
        stats = view.stats(number, False)
        lines.append(
            [number, mix.get("alpha", plan["alpha"]), _ends(plan, "_asked"), _ends(plan, ""), plan["hard"],
             plan["easy"], plan["unreliable"], stats and stats.mean_difficulty, sum(plan["expand"].values()),
             f"{mix['size']:,} {mix['unit']}" if mix else None]
        )  # fmt: skip
    return Grid("Plan of each round", columns, lines)


def _ends(plan: dict[str, Any], which: str) -> str | float | None:
    low, high = plan[f"threshold{which}"], plan[f"ceiling{which}"]
    return low if high is None else f"{low:g} to {high:g}"


def histogram(view: View, found: dict[int, ScoreStats]) -> Figure:
    """Returns the shares of rows by difficulty for up to MOST_SHOWN rounds, with δ in the numbers."""
    numbers = sorted(found)
    step = max(1, -(-(len(numbers) - 1) // (MOST_SHOWN - 1)))
    shown = sorted({*numbers[::step], numbers[-1]})
    values = [value for number in shown for value in found[number].histogram]
    low, high = min(values), max(values)
    width = _width((high - low) or 1.0)
    rows, lines = [], []
    for number in shown:
        bins: dict[int, int] = {}
        for value, count in found[number].histogram.items():
            place = int((value + ROUNDING) // width)
            bins[place] = bins.get(place, 0) + count
        for place in range(int((low + ROUNDING) // width), int((high + ROUNDING) // width) + 2):
            share = bins.get(place, 0) / found[number].reliable
            rows.append({"round": f"round {number}", "difficulty": round(place * width, 4), "rows": round(share, 5)})
            if bins.get(place):
                ends = f"{place * width:g} to {(place + 1) * width:g}"
                lines.append([number, ends, bins[place], f"{share:.1%}"])
    left = len(numbers) - len(shown)
    says = "Shares of the scored rows by difficulty. A line that moves left means that the student has caught up."
    says += f" {left} rounds in between are left out." if left else ""
    spec = charts.steps(rows, "difficulty", "rows", "round", "Histogram of difficulty by round")
    return Figure("Difficulty of the rows", says, spec,
                  Grid("Rows by difficulty", ("round", "difficulty", "rows", "share"), lines))  # fmt: skip


def _width(spread: float) -> float:
    """Returns the width of a bin: 0.25, 0.5 or 1 times a power of 10, so that there are at most MOST_BINS."""
    width = 0.001
    while True:
        for factor in (1.0, 2.5, 5.0):
            if spread / (width * factor) <= MOST_BINS:
                return width * factor
        width *= 10
