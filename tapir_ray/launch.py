"""Open everything a run needs, in the order in which it costs, run the method, close everything again.

    launch(load("configs/demo.yaml"), "runs/demo")

What can be wrong is found first: config, prompts, seed file and endpoints are checked before any model is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tapir_ray.cluster import session
from tapir_ray.config import Config
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.errors import InputError
from tapir_ray.llm.prompts import Prompts
from tapir_ray.run import Run
from tapir_ray.sources import list_files


def launch(config: Config, run_dir: str, until: str = "", start: str | None = None) -> None:
    """Run or continue the loop in `run_dir`; prints progress to stderr and the final table to stdout.

    Raises InputError for what can be seen to be wrong beforehand, Stopped and StageError as `distill` does.
    """
