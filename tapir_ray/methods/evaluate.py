"""Measures a model as it is, without training: `evaluate.only`, which `tapir eval MODEL` sets.

The layout is that of a run without rounds, whose last student is `student.model`: a suite finds the same tables in it.
The suite `holdout` reads and labels the seed data as a run does, so that it holds out the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TextIO

from tapir_ray.config import Config
from tapir_ray.cost.estimate import Estimate, estimated
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.sizes import Sizes
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.evaluate.registry import suites
from tapir_ray.methods import tapir
from tapir_ray.methods.method import Method
from tapir_ray.report.console import console
from tapir_ray.report.suites import print_suite, suites_entry
from tapir_ray.report.summary import usage_table
from tapir_ray.run.layout import EvaluationLayout
from tapir_ray.run.run import Run
from tapir_ray.run.versions import versions
from tapir_ray.steps import classifier, evaluate, round_zero
from tapir_ray.steps.context import Context


def measure(context: Context, of: Sequence[str] | None = None) -> None:
    """Writes the results of every suite of `evaluate.suites`, or of those in `of`, for `student.model`.

    Raises StageError and Stopped as the steps do.
    """
    run, config, loop = context.run, context.config, context.loop
    if config.reads_seed_data and not run.done(loop.instructions):
        round_zero.ingest(context)
        classifier.train(context)
        classifier.classify_seed(context)
    if not run.done(loop.sft_checkpoint):
        run.publish(loop.sft_checkpoint, extra={"model": config.student.model})
    evaluate.evaluate(context, of)


def layout(config: Config) -> EvaluationLayout:
    """Returns the tables of a run that trains nothing."""
    curriculum = config.curriculum.model_copy(update={"rounds": 0})
    made = tapir.layout(config.model_copy(update={"curriculum": curriculum, "control": "none"}))
    return EvaluationLayout(**{one.name: getattr(made, one.name) for one in fields(made)})


def summarise(context: Context) -> dict[str, Any]:
    """Writes `summary.json` with the results of the suites and the usage, and returns it."""
    run, config, roles = context.run, context.config, context.roles
    usage = roles.usage()
    summary = {
        "name": config.name,
        "status": "done",
        "student": config.student.model,
        "random_seed": config.random_seed,
        "suites": suites_entry(run, context.loop, suites(run, config, context.loop, roles)),
        "usage": usage,
        "cost": round(sum(role["cost"] for role in usage.values()), 6),
        "versions": versions(),
    }
    run.write_json("summary.json", summary)
    return summary


def show(summary: dict[str, Any], run: Run, file: TextIO) -> None:
    """Prints a table for each suite, the usage, and the path of the summary."""
    out = console(file)
    for name, found in summary["suites"].items():
        print_suite(name, found, out)
    if summary["usage"]:
        out.print(usage_table(summary["usage"]))
    out.print(f"summary: {run.uri_of('summary.json')}", soft_wrap=True)


def _estimate(config: Config, seed: Seed, taxonomy: Taxonomy, sizes: Sizes) -> Estimate:
    """Returns the requests of the suite `holdout`; `tapir check` adds those of the others."""
    if not config.reads_seed_data:
        return Estimate([])
    curriculum = config.curriculum.model_copy(update={"rounds": 0})
    return estimated(config.model_copy(update={"curriculum": curriculum, "control": "none"}), seed, taxonomy, sizes)


EVALUATE = Method(
    layout=layout,
    run=lambda context, _: measure(context),
    summarise=summarise,
    show=show,
    estimate=_estimate,
    assumes=(),
    asks=lambda config: bool(config.endpoints),
    trains=False,
    needs_tasks=False,
)
