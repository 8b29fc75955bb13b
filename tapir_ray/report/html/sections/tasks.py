"""Section: the mix of tasks before a round, as it was asked for, and as it was trained on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tapir_ray.data.schemas import OK
from tapir_ray.evaluate.suite import NO_TASK
from tapir_ray.report.html import charts
from tapir_ray.report.html.section import Figure, Grid, Section
from tapir_ray.report.html.view import View
from tapir_ray.run.layout import SHARDS, ShardLayout, shard_dir

BEFORE, ASKED, GOT = "before (usable seed rows)", "asked (weights)", "got (training set)"
MOST_TASKS = 20


def section(view: View) -> Section:
    """Returns the shares of the tasks."""
    title, says = "Tasks", "The mix of tasks in the seed data, the one that was asked for, and the one that came out."
    if view.loop is None:
        return _of_regeneration(view, title, says)
    instructions = view.loop.instructions
    before = _counts(view, instructions.path, instructions) if view.run.done(instructions) else Counter()
    done = [number for number in view.rounds if view.run.done(view.loop.training(number))]
    if not before:
        return Section("tasks", title, says, missing="The seed data has no tasks yet.")
    got = {number: _tokens(view, number) for number in done}
    last = done[-1] if done else None
    weights = view.mix(last).get("weights", {}) if last else _planned(view)
    shares = {BEFORE: _shares(before), ASKED: _shares(weights)}
    if last:
        shares[GOT] = _shares(got[last])
    ranked = sorted({task for one in shares.values() for task in one}, key=lambda task: -shares[BEFORE].get(task, 0))
    rows = [
        {"task": task, "mix": name, "share": round(share.get(task, 0.0), 4)}
        for task in ranked[:MOST_TASKS]
        for name, share in shares.items()
        if share
    ]
    lines: list[list[Any]] = []
    for task in ranked:
        lines.append(
            [task, before.get(task, 0), f"{shares[BEFORE].get(task, 0):.1%}", f"{shares[ASKED].get(task, 0):.1%}"]
            + [f"{_shares(got[number]).get(task, 0):.1%}" for number in done]
        )
    grid = Grid("Shares by task", ("task", "seed rows", "before", "asked", *(f"round {n}" for n in done)), lines)
    says_figure = f"Shares by task; the training set of round {last} by its tokens." if last else "Shares by task."
    if len(ranked) > MOST_TASKS:
        says_figure += f" The {MOST_TASKS} most frequent of {len(ranked)} tasks are drawn."
    spec = charts.bars(rows, "task", "share", "mix", "Mix of tasks", stacked=False, form="%")
    return Section("tasks", title, says, [Figure("Mix of tasks", says_figure, spec, grid)])


def _planned(view: View) -> dict[str, float]:
    return next((view.plan(number)["weights"] for number in reversed(view.rounds) if view.plan(number)), {})


def _counts(view: View, name: str, table: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for batch in view.scan(table, ["task", "status"]):
        for row in batch.group_by(["task", "status"]).aggregate([([], "count_all")]).to_pylist():
            if row["status"] == OK:
                found[row["task"] or NO_TASK] += row["count_all"]
    return found if set(found) - {NO_TASK} else Counter()


def _tokens(view: View, number: int) -> Counter[str]:
    """Counts the response tokens of a round's training rows by task, or the rows without such counts."""
    assert view.loop is not None
    found: Counter[str] = Counter()
    for batch in view.scan(view.loop.training(number), ["task", "status", "tokens"]):
        grouped = batch.group_by(["task", "status"]).aggregate([("tokens", "sum"), ([], "count_all")])
        for row in grouped.to_pylist():
            if row["status"] == OK:
                found[row["task"] or NO_TASK] += row["tokens_sum"] or row["count_all"]
    return found


def _shares(counts: Any) -> dict[str, float]:
    total = sum(counts.values())
    return {task: count / total for task, count in counts.items()} if total else {}


def _of_regeneration(view: View, title: str, says: str) -> Section:
    layout = view.layout
    assert isinstance(layout, ShardLayout)
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for shard in view.run.children(SHARDS):
        folder = shard_dir(int(shard))
        before += _counts(view, shard, layout.labelled.of(folder))
        after += _counts(view, shard, layout.regenerated.of(folder))
    if not before and not after:
        return Section("tasks", title, says, missing="No row has a task: classify is not among the operations.")
    shares = {"labelled": _shares(before), "in the dataset": _shares(after)}
    ranked = sorted({*before, *after}, key=lambda task: -(before[task] + after[task]))
    rows = [
        {"task": task, "mix": name, "share": round(share.get(task, 0.0), 4)}
        for task in ranked[:MOST_TASKS]
        for name, share in shares.items()
        if share
    ]
    grid = Grid("Rows by task", ("task", "labelled", "in the dataset"),
                [[task, before[task], after[task]] for task in ranked])  # fmt: skip
    spec = charts.bars(rows, "task", "share", "mix", "Mix of tasks", stacked=False, form="%")
    return Section("tasks", title, says, [Figure("Mix of tasks", "Shares of the ok rows by task.", spec, grid)])
