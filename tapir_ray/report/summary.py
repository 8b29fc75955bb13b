"""Summary of a run: `summary.json`, and the tables printed at its end."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TextIO

from rich.table import Table

from tapir_ray.data.schemas import FAILED, OK
from tapir_ray.errors import StageError, TapirError
from tapir_ray.evaluate.holdout_loss import holdout_loss_by_task, tasks_of_holdout
from tapir_ray.evaluate.holdout_scores import holdout_scores
from tapir_ray.evaluate.registry import suites
from tapir_ray.report.console import console
from tapir_ray.report.control_entry import control_entry, control_lines
from tapir_ray.report.examples import examples, print_examples
from tapir_ray.report.rounds_table import in_decimals, lines_of_rounds, rounds_table
from tapir_ray.report.suites import print_suites, suites_entry
from tapir_ray.report.usage_table import usage_table
from tapir_ray.run.attempts import latest
from tapir_ray.run.layout import LoopLayout
from tapir_ray.run.layout import Table as RunTable
from tapir_ray.run.run import Run
from tapir_ray.run.versions import versions
from tapir_ray.steps import contamination_list, early_stop
from tapir_ray.steps.classifier import REPORT
from tapir_ray.steps.context import Context
from tapir_ray.steps.seed import unused_columns
from tapir_ray.steps.train import student_after
from tapir_ray.transforms.pack_stats import PackStats

PLANNED = (
    "select", "alpha_asked", "threshold", "threshold_asked", "ceiling", "ceiling_asked", "hard", "easy", "unreliable",
    "noise", "seen", "unseen", "mean_seen", "mean_unseen",
)  # fmt: skip
"""Keys of a round's plan that `summary.json` shows."""


def summarise(context: Context) -> dict[str, Any]:
    """Writes `summary.json` from the run's manifests, plans, events and usage, and returns it."""
    run, config, layout = context.run, context.config, context.loop
    rounds = len(layout.rounds)
    holdout = holdout_scores(run, layout, config.random_seed, config.holdout.select_share)
    scores, best, seconds = holdout.reported, holdout.best, seconds_of(run)
    usage = context.roles.usage()
    tasks = tasks_of_holdout(run, layout)
    summary = {
        "name": config.name,
        "status": "done",
        "random_seed": config.random_seed,
        "rounds": [_round(context, number, scores, seconds, tasks) for number in range(1, rounds + 1)],
        "start": _start(context, scores[0], seconds, tasks),
        "initial_sft": _initial_sft(run, layout, scores[0], seconds, tasks),
        "holdout": {
            **_packed(run, layout.holdout_packed),
            "select_share": config.holdout.select_share,
            "selecting_rows": holdout.selecting_rows,
            "selecting_scores": [mean and round(mean, 3) for mean in holdout.selecting],
        },
        "suites": suites_entry(run, layout, suites(run, config, layout, context.roles)),
        "examples": examples(run, layout),
        "unused_columns": unused_columns(run),
        "seed": _seed(run, layout),
        "ended_early": early_stop.ended(run) if rounds < config.curriculum.rounds else None,
        "best_round": best,
        "student": student_after(context, best),
        "usage": usage,
        "cost": round(sum(role["cost"] for role in usage.values()), 6),
        "versions": versions(),
    }
    if (report := run.find_json(f"{layout.classifier}/{REPORT}")) is not None:
        summary["classifier"] = {key: report[key] for key in ("rows", "holdout_rows", "accuracy", "macro_f1")}
    run.write_json("summary.json", summary)
    return summary


def summarise_stopped(context: Context, error: TapirError) -> None:
    """Writes a `summary.json` of a run that was stopped or failed, with the reason and the usage.

    Keeps the summary of a run that is done, or that another attempt works on.
    """
    run = context.run
    if latest(run) > run.attempt or (run.find_json("summary.json") or {}).get("status") == "done":
        return
    usage = context.roles.usage()
    run.write_json(
        "summary.json",
        {
            "name": context.config.name,
            "status": "failed" if isinstance(error, StageError) else "stopped",
            "reason": str(error),
            "random_seed": context.config.random_seed,
            "usage": usage,
            "cost": round(sum(role["cost"] for role in usage.values()), 6),
            "versions": versions(),
        },
    )


def _is_trained(run: Run, checkpoint: RunTable) -> bool:
    """Whether a round trained its student; the student of round 0 may be the base model."""
    return "model" not in run.manifest(checkpoint).extra


def _start(
    context: Context, score: dict[str, Any], seconds: dict[int, dict[str, float]], tasks: dict[str, str]
) -> dict[str, Any]:
    """Returns the entry of the untrained student: its holdout loss and, if the rounds began with it, its score."""
    run, layout = context.run, context.loop
    first = 0 if _is_trained(run, layout.sft_checkpoint) else 1
    trained = layout.checkpoint(first) if first <= len(layout.rounds) else None
    losses = run.manifest(trained).extra.get("holdout_losses") if trained else None
    return {
        "student_score": score if first else None,
        "holdout_loss": round(losses[0][1], 4) if losses else None,
        "holdout_loss_by_task": holdout_loss_by_task(run, trained, tasks, before=True) if trained else {},
        "seconds": seconds.get(0, {}) if first else {},
    }


def _initial_sft(
    run: Run, layout: LoopLayout, score: dict[str, Any], seconds: dict[int, dict[str, float]], tasks: dict[str, str]
) -> dict[str, Any] | None:
    """Returns the entry of the student after the initial SFT; None if there was none."""
    checkpoint = layout.sft_checkpoint
    if not _is_trained(run, checkpoint):
        return None
    return {
        "training_tokens": run.manifest(checkpoint).extra.get("tokens", 0),
        "student_score": score,
        "holdout_loss": _holdout_loss(run, checkpoint),
        "holdout_loss_by_task": holdout_loss_by_task(run, checkpoint, tasks),
        "seconds": seconds.get(0, {}),
        **_packed(run, layout.sft_packed),
    }


def _round(
    context: Context,
    number: int,
    scores: list[dict[str, Any]],
    seconds: dict[int, dict[str, float]],
    tasks: dict[str, str],
) -> dict[str, Any]:
    """Returns the entry of a round; numbers that a round with the user's own training set lacks are null."""
    run, tables = context.run, context.loop.any_round(number)
    plan = run.find_json(tables.plan) or {"plan": {}, "mix": {}}
    made, mix = plan["plan"], plan["mix"]
    packed = _packed(run, tables.packed)
    written, scored = run.done(tables.written), run.done(tables.scored)
    expanding = context.loop.expanding.get(number)
    return {
        "round": number,
        "alpha": mix.get("alpha"),
        **{name: made.get(name) for name in PLANNED},
        "draws": {source: sum(tasks.values()) for source, tasks in made.get("sources", {}).items()},
        "hard_share": mix.get("share"),
        "unscored": mix.get("unscored"),
        "probes": sum(mix["probes"].values()) if "probes" in mix else None,
        "scored": {"rows": scored.rows, **scored.statuses, "reasons": scored.reasons} if scored else None,
        "generated": written and written.count(OK),
        "filtered": written.reasons if written else {},
        "contamination": contamination_list.counts(run, expanding.contamination) if expanding else {},
        "failed": written.count(FAILED) if written else 0,
        "elad": plan.get("elad"),
        "training_tokens": run.manifest(tables.packed).extra["tokens"],
        "student_score_before": scores[number - 1],
        "student_score_after": scores[number],
        "holdout_loss": _holdout_loss(run, tables.checkpoint),
        "holdout_loss_by_task": holdout_loss_by_task(run, tables.checkpoint, tasks),
        "seconds": seconds.get(number, {}),
        "packed": packed["packed"],
        "control": control_entry(context, number),
        "warnings": list(dict.fromkeys(made.get("warnings", []) + mix.get("warnings", []) + packed["warnings"])),
    }


def _seed(run: Run, layout: LoopLayout) -> dict[str, Any]:
    """Counts the rows of the seed data, those filtered by reason, and contaminated ones by set and rule."""
    made = run.done(layout.ingested) or run.done(layout.instructions)
    found = {"rows": made.rows, "filtered": made.reasons} if made else {"rows": None, "filtered": {}}
    return {**found, "contamination": contamination_list.counts(run, layout.contamination)}


def _packed(run: Run, table: RunTable) -> dict[str, Any]:
    """Counts the packed and left-out pairs of a table, with sentences in `warnings`; None if it was not packed."""
    manifest = run.done(table)
    stats = PackStats(**manifest.extra) if manifest else None
    return {"packed": stats and stats.once(), "warnings": stats.warnings() if stats else []}


def _holdout_loss(run: Run, checkpoint: RunTable) -> float | None:
    """Returns a student's loss on the holdout after its training (nats per response token); None without training."""
    losses = run.manifest(checkpoint).extra.get("holdout_losses")
    return round(losses[-1][1], 4) if losses else None


def seconds_of(run: Run) -> dict[int, dict[str, float]]:
    """Sums seconds by round and stage, over all attempts."""
    seconds: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for event in run.events("stage"):
        seconds[event["round"]][event["stage"]] += event["seconds"]
    return {number: {stage: round(value, 1) for stage, value in stages.items()} for number, stages in seconds.items()}


def print_table(summary: dict[str, Any], run: Run, file: TextIO) -> None:
    """Prints the result of a run: a row for each round, scores and losses by task, usage and paths."""
    out = console(file)
    start, sft = summary["start"], summary["initial_sft"]
    out.print(rounds_table(summary))
    trained = {"start": start} | ({"after SFT": sft} if sft else {})
    trained |= {f"round {entry['round']}": entry for entry in summary["rounds"]}
    scores = {name: entry.get("student_score_after", entry.get("student_score")) for name, entry in trained.items()}
    held = max(score["rows"] for score in scores.values() if score)
    choosing = summary["holdout"]["selecting_rows"]
    title = f"mean judge score of the student on {held} holdout rows"
    others = f", others than the {choosing} that choose the round" if choosing else ""
    if held:
        out.print(_by_task(title + others, {name: (s["by_task"], s["mean"]) for name, s in scores.items() if s}))
    else:
        out.print("score of the student on the holdout: not measured, as no holdout row was scored")
    print_suites(summary["suites"], out)
    if any(entry["holdout_loss"] is not None for entry in trained.values()):
        losses = {name: (entry["holdout_loss_by_task"], entry["holdout_loss"]) for name, entry in trained.items()}
        out.print(_by_task("loss on the holdout (nats per response token)", losses))
    for line in lines_of_rounds(summary):
        out.print(line, highlight=False)
    for line in control_lines(summary):
        out.print(line, soft_wrap=True)
    if summary["ended_early"] is not None:
        out.print(early_stop.sentence(summary["ended_early"]), soft_wrap=True)
    print_examples(summary["examples"], out)
    out.print(usage_table(summary["usage"]))
    parts = {"initial SFT": sft or {"warnings": []}, "holdout": summary["holdout"]}
    parts |= {f"round {entry['round']}": entry for entry in summary["rounds"]}
    parts |= {f"round {entry['round']} control": entry["control"] for entry in summary["rounds"] if entry["control"]}
    for name, part in parts.items():
        for warning in part["warnings"]:
            out.print(f"{name}: {warning}", highlight=False)
    choice = f"the best on {choosing} rows of the holdout" if choosing else "the last, as no holdout row chooses"
    out.print(f"student of round {summary['best_round']}, {choice}: {summary['student']}", soft_wrap=True)
    out.print(f"summary: {run.uri_of('summary.json')}", soft_wrap=True)


def _by_task(title: str, students: dict[str, tuple[dict[str, float], float | None]]) -> Table:
    """Returns a table with a line for each task and one for all tasks, and a column for each student."""
    table = Table(title=title)
    table.add_column("task")
    for name in students:
        table.add_column(name, justify="right")
    for task in sorted({task for by_task, _ in students.values() for task in by_task}):
        table.add_row(task, *(in_decimals(by_task.get(task)) for by_task, _ in students.values()))
    table.add_row("all", *(in_decimals(mean) for _, mean in students.values()), style="bold")
    return table
