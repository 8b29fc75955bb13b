"""What the commands need to know of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from tapir_ray.config import Config
from tapir_ray.cost.estimate import Estimate
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.sizes import Sizes
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.run.layout import Layout
from tapir_ray.run.run import Run
from tapir_ray.steps.context import Context
from tapir_ray.steps.stop import StopAfter


@dataclass(frozen=True)
class Method:
    """A method: its outputs, the loop that makes them, its report and its cost."""

    layout: Callable[[Config], Layout]
    run: Callable[[Context, StopAfter], object]
    """Makes the outputs that are not there. Raises Reached after the stage that StopAfter names."""
    summarise: Callable[[Context], dict[str, Any]]
    """Returns what is in `summary.json` at the end of a run."""
    show: Callable[[dict[str, Any], Run, TextIO], None]
    """Prints that summary for a person."""
    estimate: Callable[[Config, Seed, Taxonomy, Sizes], Estimate]
    """Returns the requests of a whole run."""
    assumes: tuple[str, ...]
    """What the estimate takes for granted."""
    asks: Callable[[Config], bool]
    """Whether anything is asked of the teacher or the judge."""
    trains: bool
    """Whether a student is trained, which is checked before anything is spent."""
    needs_tasks: bool
    """Whether every row needs a task with a weight."""
