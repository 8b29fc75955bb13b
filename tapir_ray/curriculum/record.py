"""What the curriculum decided, as a file that a person reads."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """One decision, whole: what was asked, what is done, and the warnings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """The record as indented JSON, for a file that a person reads."""
        return self.model_dump_json(indent=2) + "\n"


def shared_out(absent: list[str]) -> list[str]:
    """The warning that tasks have no rows, if any has none."""
    if not absent:
        return []
    shown = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more tasks" if len(absent) > 3 else "")
    return [f"no rows of {shown}: their weights are shared out"]
