"""How a new instruction gets its answer: named functions, of which a run chooses one (`expand.annotation`).

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
"""Rows of records.GENERATED_ROWS in and out; fills `response` of the ok rows that have none."""

ANNOTATIONS: dict[str, Annotation] = {"respond": respond}


def annotation(name: str) -> Annotation:
    """The registered annotation of that name, or the function that `package:function` names. Raises InputError.

    The answers of a function of the user's pass the `filter.functions` that run after answering.
    """
    found = resolve(name, ANNOTATIONS, what="expand.annotation")
    return found if found in ANNOTATIONS.values() else functools.partial(_filtered, found)


def _filtered(
    annotate: Annotation, rows: ray.data.Dataset, config: Config, roles: Roles, styles: Mapping[str, str]
) -> ray.data.Dataset:
    return filter_answers(annotate(rows, config, roles, styles), config)
