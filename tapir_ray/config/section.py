"""The base class of every part of the configuration, and how a field declares what its value enters.

class Filter(Section):
    max_chars: Count = key(8000, invalidates=("checked",))      # changed, `checked` is made again with what follows
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
    """A field of a section, with the outputs of a run that its value enters directly.

    `invalidates` names fields of the method's layout (`run/layout.py`), or `summary` for the summary alone, which every
    start writes again; () says that no result depends on the value. A field without any has those of the field that
    holds its section, so that `Endpoint` has others as `teacher` than as `judge`. `arguments` are those of pydantic's
    `Field`.
    """
    given = () if "default_factory" in arguments else (default,)
    return Field(*given, json_schema_extra={INVALIDATES: list(invalidates)}, **arguments)


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes `true` for 1, and YAML takes `on` and `yes` for `true`."""
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) for one in values) and _is_number(
            cls.model_fields[str(info.field_name)].annotation
        ):
            raise ValueError("this must be a number, and YAML reads yes, no, on, off, true and false as truth values")
        return value


def default_of(section: type[Section], key: str) -> Any:
    """A key's default as plain values."""
    value = section.model_fields[key].get_default(call_default_factory=True)
    return value.model_dump(mode="json") if isinstance(value, Section) else value


def _is_number(annotation: Any) -> bool:
    """Whether an annotation, or what its mapping or list holds, takes numbers and no truth values."""
    kinds, found = [annotation], set()
    while kinds:
        kind = kinds.pop()
        if get_origin(kind) is None:
            found.add(kind)
        kinds += get_args(kind)
    return bool(found & {int, float}) and not found & {bool, Any}
