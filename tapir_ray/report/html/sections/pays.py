"""Section: whether the curriculum paid, by the judge's scores of the holdout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tapir_ray.data.schemas import HOLDOUT
from tapir_ray.evaluate.control_gain import sentence
from tapir_ray.evaluate.holdout_scores import Scores, read_scores
from tapir_ray.evaluate.paired import bootstrap, paired_gain
from tapir_ray.report.html import charts
from tapir_ray.report.html.section import Block, Figure, Grid, Notes, Section
from tapir_ray.report.html.view import MOST_RESAMPLES_TASKS, View
from tapir_ray.run.layout import LoopLayout
from tapir_ray.run.run import Run

STUDENT = "student"
LEVELS = ("level", "difficulty")
"""Columns of the seed data by which rows are compared, with those of `holdout.stratify_by`."""
MOST_LEVELS, MOST_TASKS = 12, 24
FEWEST = 5
"""Fewest rows of a task or level for an interval of its own."""


def section(view: View) -> Section:
    """Returns the students' scores by round, and the last student's gain by task and level."""
    title, says = "Does it pay?", (
        "The judge's mean score of the student on rows that it was never trained on, by round, next to the control, "
        "with 95 % bootstrap intervals over the rows."
    )  # fmt: skip
    if view.loop is None:
        return Section("pays", title, says, missing="A regeneration trains no student.")
    found = students(view.run, view.loop)
    if not found:
        return Section("pays", title, says, missing="No student has been scored on the holdout yet.")
    blocks: list[Block] = [*_sentences(view), by_round(view, found)]
    blocks += _suites(view)
    if (gains := _last_gains(view)) is not None:
        old, new, over = gains
        for name, groups in (("task", tasks_of(new)), *levels_of(view)):
            if (figure := by_group(view, name, groups, old, new, over)) is not None:
                blocks.append(figure)
        if len(blocks) and not levels_of(view):
            blocks.append(Notes(["By level: no row of the holdout has a column level or difficulty, and "
                                 "holdout.stratify_by names none."]))  # fmt: skip
    return Section("pays", title, says, blocks)


def students(run: Run, layout: LoopLayout) -> dict[str, dict[int, Scores]]:
    """Returns the scores of the holdout by student (`student` or `control`) and round, of the finished tables."""
    rounds = range(len(layout.rounds) + 1)
    mine = {number: read_scores(run, layout.judged_holdout(number)) for number in rounds}
    found = {STUDENT: {number: scores for number, scores in mine.items() if scores}}
    control = {n: read_scores(run, one.evaluation) for n, one in enumerate(layout.controls, 1)}
    if control := {number: scores for number, scores in control.items() if scores}:
        found["control"] = control
    return found if found[STUDENT] else {}


def by_round(view: View, found: Mapping[str, dict[int, Scores]]) -> Figure:
    """Returns the mean scores by round, over the rows that all students have a score for."""
    everyone = [scores for rounds in found.values() for scores in rounds.values()]
    common = sorted(set.intersection(*(set(scores) for scores in everyone)))
    rows: list[dict[str, Any]] = []
    for student, rounds in found.items():
        # The control starts from the student of round 0.
        start = {0: found[STUDENT][0]} if student != STUDENT and 0 in found[STUDENT] else {}
        for number, scores in {**start, **rounds}.items():
            if not common:
                continue
            mean = bootstrap([scores[row_id][1] for row_id in common], None, view.config.random_seed)
            name = STUDENT if student == STUDENT else f"control ({view.control})"
            rows.append({"student": name, "round": number, "score": round(mean.value, 3),
                         "low": mean.low, "high": mean.high})  # fmt: skip
    numbers = Grid(
        f"Mean score on {len(common)} holdout rows, with its interval",
        ("student", "round", "score", "low", "high"),
        [[row[name] for name in ("student", "round", "score", "low", "high")] for row in rows],
    )
    dashed = [row["student"] for row in rows if row["student"] != STUDENT][:1]
    spec = charts.lines(rows, "round", "score", "student", "Mean score of each student by round", "low", "high",
                        dashed=dashed)  # fmt: skip
    says = (
        f"Each point is a mean over the same {len(common)} rows of the holdout. Round 0 is the student before the "
        "first round. Two intervals that overlap may still differ: the paired difference above decides."
    )
    return Figure("Score by round", says, spec, numbers)


def tasks_of(scores: Scores) -> dict[str, str]:
    """Returns the task of each row."""
    return {row_id: task for row_id, (task, _) in scores.items()}


def levels_of(view: View) -> list[tuple[str, dict[str, str]]]:
    """Returns (column, value by row) for each column of LEVELS and `holdout.stratify_by` that the holdout has."""
    wanted = dict.fromkeys([*LEVELS, *view.config.holdout.stratify_by])
    wanted.pop("task", None)
    found: dict[str, dict[str, str]] = {name: {} for name in wanted}
    if view.loop is None or not view.scored_rounds:
        return []
    table = view.loop.judged_holdout(view.scored_rounds[-1])
    for batch in view.scan(table, ["instruction_id", "split", "meta"]):
        for row in batch.to_pylist():
            meta = json.loads(row["meta"]) if row["split"] == HOLDOUT and row["meta"] else {}
            for name in wanted:
                if isinstance(meta, dict) and meta.get(name) is not None:
                    found[name][row["instruction_id"]] = str(meta[name])
    return [(name, values) for name, values in found.items() if 1 < len(set(values.values())) <= MOST_LEVELS]


def by_group(view: View, name: str, groups: Mapping[str, str], old: Scores, new: Scores, over: str) -> Figure | None:
    """Returns the paired gain of each group of rows with its interval; None without a group of FEWEST rows."""
    members: dict[str, list[str]] = {}
    for row_id in sorted(old.keys() & new.keys() & groups.keys()):
        members.setdefault(groups[row_id], []).append(row_id)
    large = {group: ids for group, ids in sorted(members.items()) if len(ids) >= FEWEST}
    most = sorted(large, key=lambda group: -len(large[group]))[:MOST_TASKS]
    rows = []
    for group in (group for group in large if group in most):
        before, after = ({row_id: scores[row_id][1] for row_id in large[group]} for scores in (old, new))
        gain = paired_gain(before, after, view.config.random_seed, MOST_RESAMPLES_TASKS)
        mean = sum(after.values()) / len(after)
        rows.append({"group": group, "gain": gain.mean, "low": gain.low, "high": gain.high, "rows": gain.rows,
                     "score": round(mean, 3)})  # fmt: skip
    if not rows:
        return None
    left = len(members) - len(rows)
    few = f" Left out: {left}, with fewer than {FEWEST} rows or not among the {MOST_TASKS} largest." if left else ""
    fields = ("group", "rows", "score", "gain", "low", "high")
    lines = [[row[field] for field in fields] for row in rows]
    grid = Grid(f"Gain over {over} by {name}", (name, *fields[1:]), lines)
    spec = charts.intervals(rows, "group", "gain", f"Gain over {over} by {name}", unit="gain in points")
    says = (
        f"The last student's gain over {over}, row by row. An interval that crosses 0 shows no difference; of 20 "
        f"intervals about one misses the true value by chance.{few}"
    )
    return Figure(f"Gain by {name}", says, spec, grid)


def _last_gains(view: View) -> tuple[Scores, Scores, str] | None:
    """Returns the scores to compare by task: the last student's over the control's, or over the start's."""
    assert view.loop is not None
    found = students(view.run, view.loop)
    mine = found[STUDENT]
    both = sorted(mine.keys() & found.get("control", {}).keys())
    if both:
        return found["control"][both[-1]], mine[both[-1]], f"the control ({view.control})"
    if len(mine) > 1:
        return mine[min(mine)], mine[max(mine)], f"the student of round {min(mine)}"
    return None


def _sentences(view: View) -> list[Block]:
    """Returns what the paired differences say: over the control, and over the student before the rounds."""
    assert view.loop is not None
    found, seed = students(view.run, view.loop), view.config.random_seed
    mine = {number: _values(scores.items()) for number, scores in found[STUDENT].items()}
    said = []
    for number, scores in sorted(found.get("control", {}).items()):
        theirs = _values(scores.items())
        if number in mine and theirs.keys() & mine[number].keys():
            said.append(f"Round {number}: {sentence(view.config.control, paired_gain(theirs, mine[number], seed))}.")
    if not view.control:
        said.append("The run has no control (control: sft), so nothing tells the curriculum from more training.")
    if len(mine) > 1 and mine[min(mine)].keys() & mine[max(mine)].keys():
        gain = paired_gain(mine[min(mine)], mine[max(mine)], seed)
        says = {1: "it is better", -1: "it is worse", 0: "no difference is shown"}[gain.sign]
        said.append(
            f"The student of round {max(mine)} has {gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] points over "
            f"that of round {min(mine)} ({gain.rows} rows): {says}."
        )
    return [Notes(said)] if said else []


def _values(items: Iterable[tuple[str, tuple[str, float]]]) -> dict[str, float]:
    return {row_id: score for row_id, (_, score) in items}


def _suites(view: View) -> list[Block]:
    """Returns the results of other suites, as `summary.json` has them."""
    lines: list[list[Any]] = []
    for name, results in view.summary.get("suites", {}).items():
        for student in ("last", "initial", "control"):
            one = results if student == "last" else results.get(student)
            if name != "holdout" and one and one.get("score"):
                score = one["score"]
                lines.append([name, student, score["rows"], score["value"], score["low"], score["high"]])
    if not lines:
        return []
    return [Grid("Other suites of evaluate.suites", ("suite", "student", "rows", "score", "low", "high"), lines)]
