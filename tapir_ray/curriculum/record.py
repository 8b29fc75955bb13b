"""Base of the curriculum's decisions (`Plan`, `Mix`), which are written to `rounds/NN/plan.json`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A decision: what the configuration asks for, what is done, and the warnings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Returns the record as indented JSON."""
        return self.model_dump_json(indent=2) + "\n"


def shared_out(absent: list[str]) -> list[str]:
    """Returns a warning about tasks without rows; empty if every task has some."""
    if not absent:
        return []
    shown = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more tasks" if len(absent) > 3 else "")
    return [f"no rows of {shown}: their weights are shared out"]
