"""`tapir.evaluate`: scores of a model, or of a run's student.

found = tapir.evaluate("runs/mine", ["ifeval"], before=True)
found["suites"]["ifeval"]["over_initial"]["gain"]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from tapir_ray.api.caller import Caller, Tell, ignore
from tapir_ray.api.configs import ConfigLike, configured
from tapir_ray.api.run import Run
from tapir_ray.api.students import evaluate_students


def evaluate(
    target: str | os.PathLike[str] | Run,
    suites: Sequence[str],
    *,
    before: bool = False,
    against: str | os.PathLike[str] | Run | None = None,
    config: ConfigLike | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Measures the last student of a run, or a model, by each of `suites`, and returns the results as JSON values.

    - `target`: a `Run`, folder or URI of a run, or folder or HF name of a model.
    - `before`: also the student before the run. `against`: another run or model, by the same suites.
    - `config`: other settings of engine, judge and suites than those of the run; a model needs none.
    - `run_dir`: folder or URI for the results of a model; without it `runs/eval-…`.
    - `tell`: gets warnings, and a line at the end of each stage.

    `suites.NAME` has `score`, its 95 % interval and the rows; `over_initial` and `over_against` in it compare on the
    same items. `targets` names both and their runs, `warnings` says why they may not be comparable. Finished results
    are read, missing ones are made.

    Raises InputError for mistakes that can be found beforehand, and Stopped and StageError as `run` does.
    """
    if isinstance(suites, str):
        suites = [suites]
    return evaluate_students(
        _name(target),
        suites,
        before,
        None if against is None else _name(against),
        None if config is None else configured(config),
        (),
        None if run_dir is None else str(run_dir),
        Caller(tell or ignore),
    )


def _name(target: str | os.PathLike[str] | Run) -> str:
    return target.uri if isinstance(target, Run) else str(target)
