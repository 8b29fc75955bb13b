"""Runs and models that `tapir eval` measures, with the config and the folder that each is measured in."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_ray.config import Config, changed, load
from tapir_ray.config.evaluate import HOLDOUT_SUITE, INITIAL
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError
from tapir_ray.run.run import Run

MODEL_CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "*.bin", MODEL_CONFIG)
RUNS = "runs"
OF_STUDENT = ("engine", "endpoint", "create", "model", "revision", "chat_template")
"""Keys of a run's `student` that do not hold for another model."""


@dataclass(frozen=True)
class Subject:
    """A run whose students are measured, or a model."""

    target: str
    """As the user has named it."""
    run_dir: str
    """Folder or URI with the results: the run itself, or one that measures the model."""
    config: Config
    is_model: bool


def subjects(
    target: str,
    against: str | None,
    suites: Sequence[str],
    before: bool,
    config: str | Config | None,
    overrides: Sequence[str],
    run_dir: str | None,
) -> list[Subject]:
    """Returns the subjects of `cli.evaluate.evaluate_students`: the target, and what it is compared with.

    Raises InputError for a target that is neither a run nor a model, and for arguments that have no effect.
    """
    named = [target] if against is None else [target, against]
    runs = [run_at(name) for name in named]
    if before and runs[0] is None:
        raise InputError(f"--before: {target} is a model, which has no student before it: name that one by --against")
    if run_dir is not None and runs[0] is not None:
        raise InputError(f"--run-dir: {target} is a run, which holds its results itself: leave --run-dir out")
    given = load(config, list(overrides)) if isinstance(config, str) else config
    if given is not None and not isinstance(config, str):
        given = changed(given, list(overrides))
    stored = [None if run is None else changed(given or run.stored_config(), list(overrides)) for run in runs]
    base = given or next((one for one in stored if one is not None), None)
    found = []
    for name, run, own in zip(named, runs, stored, strict=True):
        if run is not None and own is not None:
            found.append(Subject(name, run.uri, _with_suites(own, suites, before), is_model=False))
        else:
            of_model = _of_model(base, name, suites, overrides if base is None else ())
            folder = run_dir if run_dir is not None and name == target else _folder(of_model, name)
            found.append(Subject(name, folder, _continued(of_model, folder), is_model=True))
    return found


def run_at(name: str) -> Run | None:
    """Returns the run in a folder or at a URI; None for a model. Raises InputError for a folder that has neither."""
    is_folder = is_remote(name) or Path(name).is_dir()
    if is_folder:
        run = Run.at(name)
        if run.exists("config.yaml") and (run.exists("attempts") or run.exists("events.jsonl")):
            return run
        if not run.exists(MODEL_CONFIG):
            raise InputError(f"{name} has neither a run (config.yaml, attempts) nor a model ({MODEL_CONFIG})")
    elif Path(name).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"{name} is no folder: give the folder of a run or of a model, or a HF name, OWNER/NAME")
    return None


def _with_suites(config: Config, suites: Sequence[str], before: bool) -> Config:
    """Returns a run's config with these suites too, so that its summary has them."""
    content = config.model_dump(mode="json", exclude_unset=True)
    evaluate = content.setdefault("evaluate", {})
    evaluate["suites"] = list(dict.fromkeys([*config.evaluate.suites, *suites]))
    if before and INITIAL not in config.evaluate.students:
        evaluate["students"] = [*config.evaluate.students, INITIAL]
    return changed(Config.model_validate(content), [])


def _of_model(base: Config | None, model: str, suites: Sequence[str], overrides: Sequence[str]) -> Config:
    """Returns the config that measures a model, with the settings of `base` for engine, judge and seed data."""
    content: dict[str, Any] = {} if base is None else base.model_dump(mode="json", exclude_unset=True)
    if base is None and HOLDOUT_SUITE in suites:
        raise InputError(
            "the suite holdout needs the seed data that its rows are held out of: give the config of a run by "
            "--config, or a run by --against"
        )
    student = {key: value for key, value in content.get("student", {}).items() if key not in OF_STUDENT}
    place = model if is_remote(model) or not Path(model).is_dir() else str(Path(model).resolve())
    content |= {
        "name": f"eval-{_plain(model)}",
        "student": {**student, "model": place},
        "evaluate": {**content.get("evaluate", {}), "suites": list(dict.fromkeys(suites)), "only": True},
        "trackers": [],
    }
    for key in ("control", "run_dir"):
        content.pop(key, None)
    return changed(Config.model_validate(content), list(overrides))


def _continued(config: Config, folder: str) -> Config:
    """Returns the config with the suites that the folder has results of, so that its summary keeps them."""
    run = Run.at(folder)
    if not run.exists("config.yaml"):
        return config
    stored = run.stored_config().evaluate.suites
    suites = list(dict.fromkeys([*stored, *config.evaluate.suites]))
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"suites": suites})})


def _folder(config: Config, model: str) -> str:
    """Returns the folder for a model's results: another one for other weights, and for other settings."""
    files: list[Path] = []
    if not is_remote(model) and Path(model).is_dir():
        files = sorted(file for pattern in WEIGHTS for file in Path(model).glob(pattern))
    weights = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([config.student.model, config.digest(), weights])
    return f"{RUNS}/{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _plain(model: str) -> str:
    """Returns the last part of a model's name as part of a run's name; `checkpoints/03` gives `checkpoints-03`."""
    parts = [part for part in re.split(r"[/\\]", model.rstrip("/")) if part not in ("", ".", "..")]
    last = parts[-1:] if not parts or re.search("[A-Za-z]", parts[-1]) else parts[-2:]
    return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(last)) or "model"
