"""Finds functions by name: a registered name, or `package.module:function` of a user.

mfd = resolve("mfd", MEASURES, what="curriculum.difficulty.measure")
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from tapir_ray.errors import InputError

MEASURES = {
    name: f"tapir_ray.curriculum.measures.{name}:{name}"
    for name in ("mfd", "ifd", "superfilter", "self_consistency", "frontier", "unknown")
}
"""Values of `curriculum.difficulty.measure`. Stored as text: measures import the config, and the config asks a measure
whether it needs a judge."""
VERIFIERS = {
    name: f"tapir_ray.transforms.verifiers.{name}:{name}"
    for name in ("reference_number", "math_verify", "json_schema", "ifeval", "python_syntax")
}
"""Values of `judge.verifiers`."""
TRACKERS = {
    "tensorboard": "tapir_ray.run.trackers.tensorboard:TensorBoard",
    "mlflow": "tapir_ray.run.trackers.mlflow:MLflow",
    "wandb": "tapir_ray.run.trackers.wandb:Wandb",
    "trackio": "tapir_ray.run.trackers.trackio:Trackio",
}
"""Values of `trackers`."""


def resolve(spec: str, registry: Mapping[str, Callable[..., Any] | str], what: str) -> Callable[..., Any]:
    """Returns the function that `spec` names: an entry of `registry`, or `package.module:function`.

    Entries of `registry` are functions or text `package.module:function`; attributes may be dotted. `what` is the
    config key, for the message. Raises InputError for an unknown name, a module that cannot be found, and an attribute
    that is missing or not callable. Errors inside the user's module are raised unchanged.
    """
    if ":" not in spec:
        if spec in registry:
            entry = registry[spec]
            return resolve(entry, {}, what) if isinstance(entry, str) else entry
        known = f"one of {', '.join(sorted(registry))}, or " if registry else ""
        raise InputError(f"{what}: unknown name {spec!r}; give {known}package.module:function")
    module_name, _, attribute = spec.partition(":")
    if not module_name or module_name.startswith(".") or not attribute:
        raise InputError(f"{what}: {spec!r} is not of the form package.module:function")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{what}: cannot import {module_name!r} of {spec!r} ({error}); put its folder on PYTHONPATH"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InputError(f"{what}: module {module_name!r} has no {attribute!r}")
        found = getattr(found, name)
    if not callable(found):
        raise InputError(f"{what}: {spec!r} is not a function")
    return found


def needs_judge(spec: str, registry: Mapping[str, Callable[..., Any] | str], what: str) -> bool:
    """Whether the measure or suite that `spec` names asks the judge: its attribute `judge`, True without one.

    True for a module that cannot be imported: a machine that only shows or submits a run may lack it.
    """
    return bool(_declared("judge", True, spec, registry, what))


def measure_declares(need: str, default: Any, spec: str) -> Any:
    """Returns the attribute `need` of the measure that `spec` names; `default` if it or the module is missing."""
    return _declared(need, default, spec, MEASURES, "curriculum.difficulty.measure")


def _declared(need: str, default: Any, spec: str, registry: Mapping[str, Callable[..., Any] | str], what: str) -> Any:
    """Returns the attribute `need` of the object that `spec` names; `default` if one of them is missing."""
    try:
        found = resolve(spec, registry, what)
    except InputError:
        return default
    return getattr(found, need, default)
