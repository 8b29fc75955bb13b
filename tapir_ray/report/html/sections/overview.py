"""Section: what was run, how far it is, and what it cost."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tapir_ray.report.html.section import Block, Facts, Notes, Section
from tapir_ray.report.html.view import View
from tapir_ray.report.status import in_words
from tapir_ray.steps import early_stop


def section(view: View) -> Section:
    """Returns models, state, result and cost of a run, and its warnings."""
    config, found = view.config, view.status
    pairs = [("run", found["run"]), ("state", state(view)), ("method", f"tapir {view.layout.verb}")]
    if view.loop is not None:
        pairs.append(("student", config.student.model or "made for the run (student.create)"))
    if config.asks_teacher:
        pairs.append(("teacher", config.teacher.model))
    if config.judges:
        pairs.append(("judge", config.judge_endpoint.model))
    pairs += [*_progress(view), ("seed data", _seed(view)), ("time", took(view)), ("cost", cost(view))]
    if (student := view.summary.get("student")) is not None:
        pairs.append(("result", f"{student}{_choice(view.summary)}"))
    blocks: list[Block] = [Facts([(name, value) for name, value in pairs if value])]
    if view.under_way:
        now = [in_words(stage) for stage in found["stages"]]
        blocks.append(Notes([f"The run is under way: {'; '.join(now) or 'between two stages'}. Its numbers change."]))
    elif found["status"] not in ("done", "running"):
        reasons = [f"{name}: {found[name]}" for name in ("reason", "continue") if found[name]]
        blocks.append(Notes([f"The run is {found['status']}. {' '.join(reasons)}"], "warning"))
    if found["ended_early"] is not None:
        blocks.append(Notes([early_stop.sentence(found["ended_early"])]))
    if warnings := warnings_of(view):
        blocks.append(Notes(warnings, "warning"))
    return Section("overview", "Overview", "What was run, how far it is, and what it cost.", blocks)


def state(view: View) -> str:
    """Returns the state of a run with its progress, such as `done, 2 of 2 rounds trained`."""
    found = view.status
    if (shards := found["shards"]) is not None:
        of = "" if shards["all"] is None else f" of {shards['all']}"
        return f"{found['status']}, {shards['finished']}{of} shards finished"
    if not found["rounds_planned"]:
        return str(found["status"])
    return f"{found['status']}, {found['rounds_trained']} of {found['rounds_planned']} rounds trained"


def took(view: View) -> str:
    """Returns the time from the first event to the last, over all attempts."""
    times = [event["time"] for event in view.run.all_events() if "time" in event]
    if not times:
        return ""
    first, last = datetime.fromisoformat(times[0]), datetime.fromisoformat(times[-1])
    attempts = view.status["owner"]["attempt"] if view.status["owner"] else 1
    starts = "" if attempts == 1 else f", over {attempts} starts with the pauses between them"
    return f"{duration((last - first).total_seconds())} ({first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC{starts})"


def duration(seconds: float) -> str:
    """Returns seconds in words: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def cost(view: View) -> str:
    """Returns the spending of all starts in words."""
    spent = view.status["spend"]
    of = "" if spent["max_cost"] is None else f" of {spent['max_cost']:,.2f}"
    unknown = f", and at most {spent['unsettled_cost']:,.4f} unknown" if spent["unsettled_cost"] else ""
    requests = sum(role["requests"] for role in spent["roles"].values())
    free = " (no role has a price)" if not spent["cost"] and requests else ""
    return (
        f"{spent['cost']:,.4f}{of} US dollars{unknown}{free}; {spent['tokens']:,.0f} tokens, {requests:,.0f} requests"
    )


def warnings_of(view: View) -> list[str]:
    """Returns the warnings of plans, mixes and trainings, each once."""
    found: list[str] = []
    for number in view.rounds:
        said = [*view.plan(number).get("warnings", ()), *view.mix(number).get("warnings", ())]
        found += [f"round {number}: {sentence}" for sentence in said]
    for entry in view.summary.get("rounds", ()):
        found += [f"round {entry['round']}: {sentence}" for sentence in entry["warnings"]]
        control = entry["control"] or {"warnings": ()}
        found += [f"round {entry['round']} control: {sentence}" for sentence in control["warnings"]]
    return list(dict.fromkeys(found))


def _progress(view: View) -> list[tuple[str, str]]:
    curriculum = view.config.curriculum
    if view.loop is None or not view.loop.rounds:
        return []
    if view.config.work == "elad":
        elad = view.config.elad
        return [("selection", f"elad.select {elad.select}"), ("annotation", f"elad.revise {elad.revise}")]
    rule = {"hard": "hard rows", "frontier": "rows at the frontier", "none": "nothing is selected"}
    measure = "" if curriculum.difficulty.select == "none" else f", difficulty by {curriculum.difficulty.measure}"
    chosen = f"{rule.get(curriculum.difficulty.select, curriculum.difficulty.select)}{measure}"
    return [("selection", chosen), ("control", view.control or "none")]


def _seed(view: View) -> str:
    made = view.run.done(view.layout.ingested)
    if made is None:
        return ""
    return f"{made.rows:,} rows, {made.count('ok'):,} of them usable"


def _choice(summary: dict[str, Any]) -> str:
    if "best_round" not in summary:
        return ""
    rows = (summary.get("holdout") or {}).get("selecting_rows")
    by = f"the best on {rows} rows of the holdout" if rows else "the last"
    return f" (round {summary['best_round']}, {by})"
