"""Named functions that a user may replace by one of their own: a registered name, or `package:function`.

mfd = resolve("mfd", MEASURES, what="curriculum.difficulty.measure")
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from tapir_ray.errors import InputError

MEASURES = {"mfd": "tapir_ray.curriculum.measures.mfd:mfd"}
"""Values of `curriculum.difficulty.measure`. The places are text, since whether a config needs a judge depends on its
measure, and the measures import the config."""
VERIFIERS = {"reference_number": "tapir_ray.transforms.verifiers.reference_number:reference_number"}
"""Values of `judge.verifiers`."""


def resolve(spec: str, registry: Mapping[str, Callable[..., Any] | str], what: str) -> Callable[..., Any]:
    """The function that `spec` names: an entry of `registry`, or `package.module:function` (attributes may be dotted).

    An entry of `registry` is a function or the place of one, again as `package.module:function`.
    `what` is the configuration key, for the message. Raises InputError for a name that is neither, a module that
    cannot be found, or an attribute that is missing or cannot be called. An error inside the user's module comes
    through as it is.
    """
    if ":" not in spec:
        if spec in registry:
            entry = registry[spec]
            return resolve(entry, {}, what) if isinstance(entry, str) else entry
        known = f"one of {', '.join(sorted(registry))}, or " if registry else ""
        raise InputError(f"{what}: there is no {spec!r}; give {known}package.module:function")
    module_name, _, attribute = spec.partition(":")
    if not module_name or module_name.startswith(".") or not attribute:
        raise InputError(f"{what}: {spec!r} is not of the form package.module:function")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{what}: cannot import {module_name!r} of {spec!r} ({error}); is it on PYTHONPATH?"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InputError(f"{what}: module {module_name!r} has no {attribute!r}")
        found = getattr(found, name)
    if not callable(found):
        raise InputError(f"{what}: {spec!r} is not a function")
    return found
