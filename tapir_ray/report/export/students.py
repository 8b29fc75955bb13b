"""Students of a run by name, for what is exported and served: `best`, `last`, `control`, `initial`.

found = student_of(run, config, layout, "best")
found.model, found.round                       # "runs/mine/checkpoints/02", 2
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tapir_ray.config import Config
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError
from tapir_ray.report.export.tables import is_trained
from tapir_ray.run.layout import EvaluationLayout, Layout, LoopLayout, Table
from tapir_ray.run.run import Run

BEST, LAST, CONTROL, INITIAL = WHICH = ("best", "last", "control", "initial")
"""Names of students. The best one is that of the round that the holdout chose."""


@dataclass(frozen=True)
class Chosen:
    """A student of a run."""

    which: str
    model: str
    """Folder, URI or HF name."""
    round: int
    """Round after which it is this student; 0 is the initial SFT."""
    checkpoint: Table | None
    """Its output in the run; None for a model from elsewhere."""


def student_of(run: Run, config: Config, layout: Layout, which: str | None = None) -> Chosen:
    """Returns a student; without a name the best one, or the last one as long as the run has chosen none.

    Raises InputError if the run has no such student.
    """
    if not isinstance(layout, LoopLayout):
        raise InputError(f"{run.uri} is a regeneration, which trains no student")
    if not config.student.spec.local:
        raise InputError(f"the student of {run.uri} answers at an endpoint (student.engine): the run has no weights")
    if isinstance(layout, EvaluationLayout):
        return Chosen(LAST, _model(run, layout.sft_checkpoint), 0, None)
    best = (run.find_json("summary.json") or {}).get("best_round")
    if which == INITIAL:
        return _initial(run, config, layout)
    if which == CONTROL:
        return _control(run, config, layout)
    if which == BEST and best is None:
        raise InputError(f"{run.uri} has chosen no round yet: let it go on (tapir run), or take --student {LAST}")
    trained = [number for number in range(len(layout.rounds) + 1) if is_trained(run, layout.checkpoint(number))]
    if not trained:
        raise InputError(f"{run.uri} has trained no student yet: let it go on (tapir run)")
    number = int(best) if best is not None and which in (BEST, None) else trained[-1]
    checkpoint = layout.checkpoint(number)
    name = BEST if best == number and which != LAST else LAST
    return Chosen(name, _model(run, checkpoint), number, checkpoint if is_trained(run, checkpoint) else None)


def _initial(run: Run, config: Config, layout: LoopLayout) -> Chosen:
    """Returns the student before the rounds: after the initial SFT, or the model itself if there was none."""
    if run.done(layout.sft_checkpoint) is None:
        raise InputError(f"{run.uri} has no {layout.sft_checkpoint} yet: let it go on (tapir run)")
    checkpoint = layout.sft_checkpoint
    return Chosen(INITIAL, _model(run, checkpoint), 0, checkpoint if is_trained(run, checkpoint) else None)


def _control(run: Run, config: Config, layout: LoopLayout) -> Chosen:
    trained = [number for number, one in enumerate(layout.controls, start=1) if is_trained(run, one.checkpoint)]
    if not trained:
        why = "has no control (control: none)" if config.control == "none" else "has trained no control yet"
        raise InputError(f"--student {CONTROL}: {run.uri} {why}")
    checkpoint = layout.control(trained[-1]).checkpoint
    return Chosen(CONTROL, _model(run, checkpoint), trained[-1], checkpoint)


def _model(run: Run, checkpoint: Table) -> str:
    model: str | None = run.manifest(checkpoint).extra.get("model")
    return model or run.uri_of(checkpoint.path)


def is_local_name(model: str) -> bool:
    """Returns whether a model is named by a folder or URI of the user's, which a card must not show."""
    return is_remote(model) or Path(model).is_absolute() or model.startswith(".") or Path(model).is_dir()
