"""Outputs that a config key makes stale, from the metadata of its field (`section.key`).

invalidated_by("train.epochs", Config)          # ("packed",): the training sets of the rounds are packed again
without_neutral(config)                         # nested mappings of the values that results depend on
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic.fields import FieldInfo

from tapir_ray.config.section import INVALIDATES, Section


def invalidated_by(key: str, section: type[Section]) -> tuple[str, ...]:
    """Returns the outputs that depend directly on a key (`a.b.c`); the deepest field on its path that names any wins.

    A key inside a mapping, such as `curriculum.weights.Math`, has the outputs of the mapping's field. Raises KeyError
    for an unknown key, and if no field on its path names outputs.
    """
    found: list[str] | None = None
    inside: type[Section] | None = section
    for name in key.split("."):
        if inside is None:
            break
        field = inside.model_fields[name]
        declared = _declared(field)
        found = found if declared is None else declared
        inside = section_of(field)
    if found is None:
        raise KeyError(key)
    return tuple(found)


def without_neutral(section: Section) -> dict[str, Any]:
    """Returns a section as JSON values, without the keys on which no result depends."""
    content = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if _declared(field) == []:
            del content[name]
        elif isinstance(value, Section):
            content[name] = without_neutral(value)
    return content


def _declared(field: FieldInfo) -> list[str] | None:
    """Returns the outputs that a field declares by `section.key`; None if it declares none."""
    extra: Any = field.json_schema_extra or {}
    found: list[str] | None = extra.get(INVALIDATES)
    return found


def section_of(field: FieldInfo) -> type[Section] | None:
    """Returns the section class of a field, also of an optional one; None for a plain value."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
