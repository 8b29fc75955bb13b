"""`--until STAGE`: ends the run after a stage, with its table ready for other tools."""

from __future__ import annotations

from dataclasses import dataclass

from tapir_ray.errors import Reached


@dataclass(frozen=True)
class StopAfter:
    """Ends the run after a stage; an empty name never does."""

    stage: str = ""

    def after(self, *stages: str) -> None:
        """Raises Reached if the run should end after one of the stages just finished."""
        if self.stage in stages:
            raise Reached(f"stopped after {self.stage}, as asked")
