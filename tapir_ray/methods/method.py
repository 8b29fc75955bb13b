"""Interface of a method: everything that the commands (`run`, `check`, `estimate`, `status`) ask of it."""

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
    """A method: its tables, the loop that writes them, its report and its cost."""

    layout: Callable[[Config], Layout]
    """Returns the tables of a run."""
    run: Callable[[Context, StopAfter], object]
    """Writes the tables that are missing. Raises Reached after the stage that StopAfter names."""
    summarise: Callable[[Context], dict[str, Any]]
    """Returns the content of `summary.json`."""
    show: Callable[[dict[str, Any], Run, TextIO], None]
    """Prints that summary."""
    estimate: Callable[[Config, Seed, Taxonomy, Sizes], Estimate]
    """Returns the requests of a whole run, with their tokens and price."""
    assumes: tuple[str, ...]
    """Assumptions of the estimate, printed below it."""
    asks: Callable[[Config], bool]
    """True if the run sends requests to the teacher or the judge."""
    trains: bool
    """True if a student is trained; its model and resources are then checked before the start."""
    needs_tasks: bool
    """True if every row needs a task with a mixture weight."""
