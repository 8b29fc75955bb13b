"""Several runs side by side as one HTML file: `tapir compare RUN OTHER … --report FILE`.

first, *others = (scored(uri, layout_of) for uri in uris)
text = compared_page([first, *others], [compare_scored(first, other) for other in others], methods)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tapir_ray.config.differences import differences
from tapir_ray.evaluate.holdout_scores import read_scores
from tapir_ray.evaluate.paired import Gain, bootstrap, in_words, rows_in_words
from tapir_ray.report.compare import Scored
from tapir_ray.report.html import charts
from tapir_ray.report.html.page import MOST_BYTES, page
from tapir_ray.report.html.report import READING_BYTES, drawn, made_by
from tapir_ray.report.html.section import Block, Figure, Grid, Notes, Reading, Readings, Section
from tapir_ray.report.html.sections import overview, pays, readings
from tapir_ray.report.html.view import Methods, View
from tapir_ray.report.summary import seconds_of

BETTER, WORSE = "first is better", "first is worse"


def compared_page(runs: Sequence[Scored], found: Sequence[dict[str, Any]], methods: Methods) -> str:
    """Returns the page of runs and their comparisons: `found[n]` is the first run over `runs[n + 1]`."""
    views = [View(one.uri, methods) for one in runs]
    names = short_names([one.uri for one in runs])
    sections = [
        drawn("Runs", lambda: _runs(views, names)),
        drawn("Gain", lambda: _gains(names, found)),
        drawn("Score by round", lambda: _scores(runs, names)),
        drawn("Gain by task", lambda: _by_task(views, runs, names)),
        drawn("Config", lambda: _config(views, names)),
    ]
    command = f"tapir compare {' '.join(one.uri for one in runs)}"
    most = READING_BYTES
    while True:
        rows = drawn("Rows to read", functools.partial(_readings, views, runs, names, most))
        text = page(" and ".join(names), f"{len(runs)} runs side by side", made_by(command), [*sections, rows])
        if len(text.encode()) < MOST_BYTES or not most:
            return text
        most //= 2


def short_names(uris: Sequence[str]) -> list[str]:
    """Returns the last parts of the paths, as many as tell the runs apart; a repeated run has its number."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {uri}" for number, uri in enumerate(uris, 1)]


def _runs(views: Sequence[View], names: Sequence[str]) -> Section:
    lines = []
    for view, name in zip(views, names, strict=True):
        spent = view.status["spend"]
        minutes = sum(sum(stages.values()) for stages in seconds_of(view.run).values()) / 60
        student = view.config.student.model or "student.create"
        lines.append([name, view.run.uri, overview.state(view), student, round(minutes, 2), spent["tokens"],
                      spent["cost"]])  # fmt: skip
    columns = ("run", "folder", "state", "student", "minutes in stages", "tokens", "US dollars")
    says = "What was run, how far it is, and what it cost."
    return Section("runs", "Runs", says, [Grid("Runs", columns, lines)])


def _gains(names: Sequence[str], found: Sequence[dict[str, Any]]) -> Section:
    title, first = "Gain", names[0]
    says = f"How much better the students of {first} are, on the rows of both runs: a paired test, 95 % intervals."
    lines, sentences, warnings, rows = [], [], [], []
    for name, one in zip(names[1:], found, strict=True):
        gain = _gain(one["last"])
        words = {1: "better", -1: "worse", 0: "no difference is shown"}[gain.sign]
        mine, theirs = one["last"]["rounds"]
        sentences.append(
            f"Round {mine} of {first} over round {theirs} of {name}: {in_words(gain)} ({rows_in_words(gain)}): {words}."
        )
        warnings += [f"{name}: {sentence}" for sentence in one["warnings"]]
        for entry in one["rounds"]:
            by = _gain(entry)
            lines.append([name, entry["round"], by.rows, by.mean, by.low, by.high])
            rows.append({"round": f"round {entry['round']}", "over": name, "gain": by.mean, "low": by.low,
                         "high": by.high})  # fmt: skip
        for suite, comparison in one["suites"].items():
            by = _gain(comparison["gain"])
            lines.append([name, suite, by.rows, by.mean, by.low, by.high])
    blocks: list[Block] = [Notes(sentences)]
    blocks += [Notes(warnings, "warning")] if warnings else []
    grid = Grid(f"Gain of {first} by round", ("over", "round or suite", "rows", "gain", "low", "high"), lines)
    if rows:
        spec = charts.intervals(rows, "round", "gain", f"Gain of {first} by round", "over", "gain in points")
        figure_says = f"Above 0, {first} is better. An interval that crosses 0 shows no difference."
        blocks.append(Figure("Gain by round", figure_says, spec, grid))
    elif lines:
        blocks.append(grid)
    return Section("gain", title, says, blocks)


def _gain(of: dict[str, Any]) -> Gain:
    return Gain(**{name: of[name] for name in ("mean", "low", "high", "rows", "left_out")})


def _scores(runs: Sequence[Scored], names: Sequence[str]) -> Section:
    title = "Score by round"
    says = "The judge's mean score of each run's student by round, with 95 % bootstrap intervals."
    common = sorted(set.intersection(*(set(scores) for one in runs for scores in one.rounds.values())))
    if not common:
        return Section("scores", title, says, missing="The runs have no holdout row in common.")
    rows = []
    for one, name in zip(runs, names, strict=True):
        for number, scores in sorted(one.rounds.items()):
            mean = bootstrap([scores[row_id] for row_id in common], None, one.config.random_seed)
            rows.append({"run": name, "round": number, "score": round(mean.value, 3), "low": mean.low,
                         "high": mean.high})  # fmt: skip
    columns = ("run", "round", "score", "low", "high")
    grid = Grid(f"Mean score on {len(common)} rows", columns, [[row[name] for name in columns] for row in rows])
    spec = charts.lines(rows, "round", "score", "run", "Mean score by round and run", "low", "high", dashed=names[1:])
    figure_says = f"Means over the {len(common)} rows that all rounds of all runs have a score for."
    return Section("scores", title, says, [Figure("Score by round", figure_says, spec, grid)])


def _by_task(views: Sequence[View], runs: Sequence[Scored], names: Sequence[str]) -> Section:
    says = f"The gain of {names[0]} over each other run by task, on the rows of both, last rounds."
    mine = read_scores(runs[0].run, runs[0].layout.judged_holdout(runs[0].last))
    blocks: list[Block] = []
    for one, name in zip(runs[1:], names[1:], strict=True):
        theirs = read_scores(one.run, one.layout.judged_holdout(one.last))
        figure = pays.by_group(views[0], "task", pays.tasks_of(mine), theirs, mine, name)
        blocks += [figure] if figure is not None else []
    missing = "No task has enough rows that both runs have scored."
    return Section("by-task", "Gain by task", says, blocks, missing)


def _config(views: Sequence[View], names: Sequence[str]) -> Section:
    says = "The keys of the config that differ between the runs."
    changed = [differences(views[0].config, view.config) for view in views[1:]]
    keys = sorted({key for one in changed for key in one})
    first = {key: old for one in changed for key, (old, _) in one.items()}
    lines = [
        [key, _value(first[key]), *(_value(one[key][1]) if key in one else _value(first[key]) for one in changed)]
        for key in keys
    ]
    blocks: list[Block] = [Grid("Keys that differ", ("key", *names), lines)] if lines else []
    return Section("config", "Config", says, blocks, "The configs give the same results.")


def _value(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _readings(views: Sequence[View], runs: Sequence[Scored], names: Sequence[str], most_bytes: int) -> Section:
    """Returns the rows whose scores differ most between the first run and each other one."""
    says = "Rows of the holdout whose scores differ most between the last students, with the answers of both."
    mine, groups = runs[0].rounds[runs[0].last], {}
    for view, one, name in zip(views[1:], runs[1:], names[1:], strict=True):
        theirs = one.rounds[one.last]
        steps = {row_id: mine[row_id] - theirs[row_id] for row_id in mine.keys() & theirs.keys()}
        order = sorted(steps, key=lambda row_id: (-steps[row_id], row_id))
        for group, ids in (
            (f"{BETTER} than {name}", [row_id for row_id in order[: readings.MOST_ROWS] if steps[row_id] > 0]),
            (f"{WORSE} than {name}", [row_id for row_id in order[::-1][: readings.MOST_ROWS] if steps[row_id] < 0]),
        ):
            tables = runs[0].layout.judged_holdout(runs[0].last), one.layout.judged_holdout(one.last)
            both = [readings.rows_of(v, t, set(ids)) for v, t in zip((views[0], view), tables, strict=True)]
            groups[group] = [_reading(group, both[0][row_id], both[1][row_id], names[0], name) for row_id in ids]
    groups = {group: rows for group, rows in groups.items() if rows}
    if not groups:
        return Section("rows", "Rows to read", says, missing="No row has different scores.")
    return Section("rows", "Rows to read", says, [Readings(*readings.within(groups, most_bytes))])


def _reading(group: str, mine: dict[str, Any], theirs: dict[str, Any], first: str, other: str) -> Reading:
    texts = readings.answers_of(mine, [(first, mine), (other, theirs)])
    label = f"{theirs['student_score']:.3g} → {mine['student_score']:.3g}"
    order = abs(mine["student_score"] - theirs["student_score"])
    return Reading(group, mine["task"] or "", label, order, texts, mine["instruction_id"])
