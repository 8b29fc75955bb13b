"""What a key of the configuration makes stale, by the metadata of its field (`section.key`).

invalidated_by("train.epochs", Config)          # ("packed",): the training sets of the rounds are packed again
without_neutral(config)                         # nested mappings of the values that results depend on
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic.fields import FieldInfo

from tapir_ray.config.section import INVALIDATES, Section


def invalidated_by(key: str, section: type[Section]) -> tuple[str, ...]:
    """The outputs that the value of a key (`a.b.c`) enters directly, by the deepest field on its path that names any.

    Keys below a mapping, such as `curriculum.weights.Math`, are those of its field. Raises KeyError for a key that is
    not in the section, and for one on whose path no field names its outputs.
    """
    found: list[str] | None = None
    inside: type[Section] | None = section
    for name in key.split("."):
        if inside is None:
            break
        field = inside.model_fields[name]
        said = _declared(field)
        found = found if said is None else said
        inside = section_of(field)
    if found is None:
        raise KeyError(key)
    return tuple(found)


def without_neutral(section: Section) -> dict[str, Any]:
    """The values of a section as JSON values, without the keys on which no result depends."""
    content = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if _declared(field) == []:
            del content[name]
        elif isinstance(value, Section):
            content[name] = without_neutral(value)
    return content


def _declared(field: FieldInfo) -> list[str] | None:
    """What a field names by `section.key`; None if it names nothing."""
    extra: Any = field.json_schema_extra or {}
    found: list[str] | None = extra.get(INVALIDATES)
    return found


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, also if it may be null."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
