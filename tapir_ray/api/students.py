"""Measures a run's students, or any model, by suites, and compares two of them on the same items.

    found = evaluate_students("runs/a", ["ifeval"], before=True)
    found["suites"]["ifeval"]["score"], found["suites"]["ifeval"]["over_initial"]["gain"]
    evaluate_students("models/mine", ["ifeval"], against="runs/a")

The results of a run's students are tables of the run. A model gets a run of its own, which measures it and trains
nothing. So a stopped evaluation continues at its missing items, and a finished one is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from tapir_ray.api.caller import PROGRAM, Caller
from tapir_ray.api.opening import started
from tapir_ray.api.subjects import Subject, subjects
from tapir_ray.api.suites import NOWHERE
from tapir_ray.cluster.session import stopped_by_signals
from tapir_ray.config import Config
from tapir_ray.config.evaluate import HOLDOUT_SUITE, INITIAL, LAST, name_of
from tapir_ray.errors import InputError
from tapir_ray.evaluate.comparison import compared
from tapir_ray.evaluate.registry import suite_class, suite_of
from tapir_ray.evaluate.results import entry
from tapir_ray.llm.roles import Roles
from tapir_ray.methods import layout_of, method_of
from tapir_ray.methods.evaluate import measure
from tapir_ray.report.compare import warnings
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run
from tapir_ray.steps import early_stop, evaluate

AGAINST = "against"
"""Key of the results of the student that another is compared with."""


def evaluate_students(
    target: str,
    suites: Sequence[str],
    before: bool = False,
    against: str | None = None,
    config: str | Config | None = None,
    overrides: Sequence[str] = (),
    run_dir: str | None = None,
    caller: Caller = PROGRAM,
) -> dict[str, Any]:
    """Measures the last student of a run, or a model, by each of `suites`, and returns the results as JSON values.

    - `target`: folder or URI of a run, or a HF folder or name of a model.
    - `before`: also the student before the run.
    - `against`: another run or model, measured by the same suites.
    - `config`: YAML file or config with the settings of engine, judge and suites; without it that of a run.
    - `overrides`: changed keys of it (`a.b=c`).
    - `run_dir`: folder or URI for the results of the model `target`; without it `runs/eval-…`.

    `suites.NAME` has the results of the target (`evaluate.results.entry`). In it are `initial` and `against` with those
    of the others, and `over_initial` and `over_against` with the comparisons (`evaluate.comparison.compared`).
    `targets` names both and their runs. `warnings` says why the two may not be comparable.

    Raises InputError for mistakes that can be found beforehand, and Stopped and StageError as a run does.
    """
    found = subjects(target, against, suites, before, config, overrides, run_dir)
    with stopped_by_signals() if caller.signals else nullcontext():
        for subject in found:
            _measure(subject, suites, (LAST, INITIAL) if before and subject is found[0] else (LAST,), caller)
    views = [View(subject) for subject in found]
    return {
        "targets": [{"target": one.target, "run": view.run.uri} for one, view in zip(found, views, strict=True)],
        "suites": {name_of(spec): _results(spec, views, before) for spec in suites},
        "warnings": warnings(found[0].config, found[1].config) if len(found) > 1 else [],
    }


def _measure(subject: Subject, suites: Sequence[str], who: Sequence[str], caller: Caller) -> None:
    """Writes the results of a run's students, or of a model, that are missing."""
    if View(subject).has(suites, who):
        return
    # The teacher's endpoint need not be there for a suite that does not ask it.
    needed = subject.config.evaluate.model_copy(update={"only": True, "suites": list(suites)})
    asks = bool(subject.config.model_copy(update={"evaluate": needed}).endpoints)
    with started(subject.config, subject.run_dir, asks=asks, caller=caller) as context:
        if subject.is_model:
            measure(context, suites)
        else:
            context.layout = trained(context.run, context.loop)
            evaluate.evaluate(context, suites, who)
        if subject.is_model or (context.run.find_json("summary.json") or {}).get("status") == "done":
            method_of(context.config).summarise(context)


def trained(run: Run, layout: LoopLayout) -> LoopLayout:
    """Returns the layout of a trained run, which may have ended early. Raises InputError for an untrained round."""
    last = layout.checkpoint(len(layout.rounds))
    if run.done(last) is None:
        if (found := early_stop.ended(run)) is None:
            raise InputError(f"{run.uri} has no {last} to evaluate: train its rounds first (tapir run)")
        layout = layout.ended_after(found["round"])
    return layout


class View:
    """Finished results of a subject, read from its run alone."""

    def __init__(self, subject: Subject) -> None:
        """Raises InputError for a run with an untrained round."""
        self.config, self.run = subject.config, Run.at(subject.run_dir)
        layout = layout_of(self.config)
        assert isinstance(layout, LoopLayout)
        self.layout = layout if subject.is_model else trained(self.run, layout)

    def table(self, spec: str, student: str = LAST) -> Table | None:
        """Returns the results of a suite for a student; None if that student is not measured.

        The initial student's results of the holdout are the scores of the first round.
        """
        if spec == HOLDOUT_SUITE and student == INITIAL:
            return self.layout.judged_holdout(0) if self.layout.rounds else None
        (tables,) = (one for one in self.layout.suites if one.suite == spec)
        return tables.students().get(student)

    def has(self, suites: Sequence[str], who: Sequence[str]) -> bool:
        """Returns whether all results are finished, and those of the suites' settings of today."""
        tables = [(spec, self.table(spec, student)) for spec in suites for student in who]
        return all(table is None or evaluate.is_done(self.run, self.config, spec, table) for spec, table in tables)

    def entry(self, spec: str, table: Table) -> dict[str, Any]:
        """Returns the results in a table as JSON values."""
        roles = Roles(self.config, "read", NOWHERE)
        return entry(self.run, suite_of(spec, self.run, self.config, self.layout, roles), table)


def _results(spec: str, views: Sequence[View], before: bool) -> dict[str, Any]:
    """Returns the results of a suite: of the first view, and of what it is compared with."""
    first, seed = views[0], views[0].config.random_seed
    mine = first.table(spec)
    assert mine is not None
    found = first.entry(spec, mine)
    others = [(INITIAL, first, first.table(spec, INITIAL))] if before else []
    others += [(AGAINST, view, view.table(spec)) for view in views[1:]]
    for name, view, table in others:
        if table is not None and view.run.done(table):
            found[name] = view.entry(spec, table)
            split = suite_class(spec).split
            found[f"over_{name}"] = compared(first.run, mine, view.run, table, seed, split=split)
    return found
