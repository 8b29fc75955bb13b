"""What every part of the configuration is."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def default_of(section: type[Section], key: str) -> Any:
    """A key's default as plain values."""
    value = section.model_fields[key].get_default(call_default_factory=True)
    return value.model_dump(mode="json") if isinstance(value, Section) else value
