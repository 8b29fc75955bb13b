"""Section: training and holdout loss, over all trainings of the run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from tapir_ray.report.html import charts
from tapir_ray.report.html.section import Figure, Grid, Section
from tapir_ray.report.html.view import View
from tapir_ray.run.trackers.step_log import HOLDOUT_LOSS, LOSS, recorded
from tapir_ray.train.loop import RESULT_FILE

MOST_POINTS = 150
"""Points of the line of one training; more steps are averaged."""


def section(view: View) -> Section:
    """Returns the losses of the student and of the control by step."""
    title, says = "Loss", (
        "The loss on the training rows (nats per response token), and that on the holdout before and after each "
        "training. A holdout loss that rises while the training loss falls is overfitting."
    )  # fmt: skip
    if view.loop is None:
        return Section("loss", title, says, missing="A regeneration trains no student.")
    logged = recorded(view.run)
    student = [("initial SFT", 0, view.loop.sft_checkpoint)]
    student += [(f"round {n}", n, one.checkpoint) for n, one in enumerate(view.loop.rounds, 1)]
    control = [(f"control {n}", n, one.checkpoint) for n, one in enumerate(view.loop.controls, 1)]
    rows: list[dict[str, Any]] = []
    lines: list[list[Any]] = []
    after_sft = 0
    for kind, who, trainings in (("train", "", student), ("control", "control, ", control)):
        at = after_sft if who else 0
        for name, number, table in trainings:
            made = view.run.done(table)
            if made is None:
                losses, held = _so_far(logged, kind, number)
                if not losses:
                    continue
                line: list[Any] = [f"{name}, so far", len(losses), None, losses[0], losses[-1]]
            elif "steps" in made.extra:
                losses = (view.run.find_json(f"{table}/{RESULT_FILE}") or {}).get("losses", [])
                held = made.extra.get("holdout_losses") or []
                line = [name, *(made.extra[key] for key in ("steps", "tokens", "first_loss", "last_loss"))]
            else:
                continue
            rows += _points(f"{who}training", at, losses)
            rows += [{"loss of": f"{who}holdout", "step": at + step, "loss": round(loss, 4)} for step, loss in held]
            lines.append([*line, *((held[0][1], held[-1][1]) if held else (None, None))])
            at += line[1]
            if name == "initial SFT":
                after_sft = at
    if not lines:
        return Section("loss", title, says, missing="No training has made a step yet.")
    columns = ("training", "steps", "tokens", "first loss", "last loss", "holdout before", "holdout after")
    grid = Grid("Trainings", columns, lines)
    if not rows:
        return Section("loss", title, says, [grid])
    dashed = [name for name in charts.names(rows, "loss of") if "control" in name]
    spec = charts.lines(rows, "step", "loss", "loss of", "Loss by step", points=False, whole=False, dashed=dashed)
    says_figure = "Steps of all trainings, one after the other. Lines of more than 150 steps are averaged."
    return Section("loss", title, says, [Figure("Loss by step", says_figure, spec, grid)])


def _so_far(logged: list[dict[str, Any]], kind: str, number: int) -> tuple[list[float], list[tuple[int, float]]]:
    """Returns (loss of each step, (step, loss) on the holdout) of a training under way; empty if none is."""
    lines = [line for line in logged if (line["kind"], line["round"]) == (kind, number)]
    # A training that was begun anew after a `tapir retry` has a name of its own.
    lines = [line for line in lines if line["training"] == lines[-1]["training"]]
    held = [(line["step"], line[HOLDOUT_LOSS]) for line in lines if HOLDOUT_LOSS in line]
    return [line[LOSS] for line in lines if LOSS in line], held


def _points(name: str, start: int, losses: list[float]) -> Iterator[dict[str, Any]]:
    """Yields the means of at most MOST_POINTS spans of the losses."""
    spans = min(MOST_POINTS, len(losses))
    ends = [len(losses) * n // spans for n in range(spans + 1)] if spans else []
    for low, high in pairwise(ends):
        mean = sum(losses[low:high]) / (high - low)
        yield {"loss of": name, "step": start + (low + high + 1) // 2, "loss": round(mean, 4)}
