"""Base class of config sections, and fields that declare the outputs their values change.

class Filter(Section):
    max_chars: Count = key(8000, invalidates=("checked",))      # a change makes `checked` and later outputs stale
    warn_share: Share = key(0.2, invalidates=())                # only speed or messages: no result depends on it
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


INVALIDATES = "invalidates"
"""Entry of a field's `json_schema_extra`."""


def key(default: Any = ..., *, invalidates: Iterable[str], **arguments: Any) -> Any:
    """Field of a section, with the outputs of a run that depend directly on its value.

    `invalidates` names fields of the method's layout (`run/layout.py`), or `summary`, which every start writes again.
    () means that no result depends on the value. A field without `key` takes the outputs of the field that holds its
    section, so keys of `Endpoint` invalidate other outputs in `teacher` than in `judge`. `arguments` are those of
    pydantic's `Field`.
    """
    # Pydantic refuses a default next to a default_factory.
    given = () if "default_factory" in arguments else (default,)
    return Field(*given, json_schema_extra={INVALIDATES: list(invalidates)}, **arguments)


class Section(BaseModel):
    """Section of the configuration: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses true and false for a number: pydantic reads `true` as 1, and YAML reads `on` and `yes` as `true`."""
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) for one in values) and _is_number(
            cls.model_fields[str(info.field_name)].annotation
        ):
            raise ValueError("this must be a number, and YAML reads yes, no, on, off, true and false as truth values")
        return value


def on_and_off_of_yaml(given: Any) -> Any:
    """Turns true and false back into "on" and "off": YAML reads a bare `on` or `off` as a truth value."""
    return {True: "on", False: "off"}.get(given, given) if isinstance(given, bool) else given


def default_of(section: type[Section], key: str) -> Any:
    """Returns the default of a key as plain JSON values."""
    value = section.model_fields[key].get_default(call_default_factory=True)
    return value.model_dump(mode="json") if isinstance(value, Section) else value


def _is_number(annotation: Any) -> bool:
    """Whether an annotation, or the values of its mapping or list, takes numbers but no truth values."""
    kinds, found = [annotation], set()
    while kinds:
        kind = kinds.pop()
        if get_origin(kind) is None:
            found.add(kind)
        kinds += get_args(kind)
    return bool(found & {int, float}) and not found & {bool, Any}
