"""Annotators: functions that answer new instructions. `expand.annotation` names the one of a run.

annotate = annotation(config.expand.annotation)
answered = annotate(rows, config, roles, styles)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import ray.data

from tapir_ray.config import Config
from tapir_ray.config.registry import resolve
from tapir_ray.llm.roles import Roles
from tapir_ray.transforms.filters import filter_answers
from tapir_ray.transforms.respond import respond

Annotation = Callable[[ray.data.Dataset, Config, Roles, Mapping[str, str]], ray.data.Dataset]
"""Takes and returns rows of schemas.GENERATED_ROWS; fills `response` of the ok rows that have none."""

ANNOTATIONS: dict[str, Annotation] = {"respond": respond}


def annotation(name: str) -> Annotation:
    """Returns the registered annotation of that name, or the function `package.module:function`.

    Answers of a user's function pass the `filter.functions` that run after answering. Raises InputError for a name that
    cannot be resolved.
    """
    found = resolve(name, ANNOTATIONS, what="expand.annotation")
    return found if found in ANNOTATIONS.values() else functools.partial(_filtered, found)


def _filtered(
    annotate: Annotation, rows: ray.data.Dataset, config: Config, roles: Roles, styles: Mapping[str, str]
) -> ray.data.Dataset:
    return filter_answers(annotate(rows, config, roles, styles), config)
