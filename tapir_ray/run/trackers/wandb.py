"""Tracker that writes to Weights & Biases: the same run of it for all attempts, by its id.

    wandb login; tapir run mine.yaml --set trackers=[wandb]
    WANDB_MODE=offline tapir run …                  # files in RUN/wandb, for `wandb sync`

The project is `WANDB_PROJECT`, or `tapir`; the other variables of wandb hold too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError
from tapir_ray.run.trackers.base import RunInfo
from tapir_ray.run.trackers.curves import Curves, Point, last_steps

STEP = "step"
"""Last part of the name of a group's own axis, such as `train/step`: wandb's own steps may not go back."""


class Wandb(Curves):
    """Curves in a run of Weights & Biases."""

    name, package = "wandb", "wandb"
    end_s = 60.0
    """Its end sends what still waits."""

    def open(self, run: RunInfo) -> Mapping[str, int]:
        import wandb

        offline = os.environ.get("WANDB_MODE", "online") != "online"
        if not offline and not wandb.api.api_key:
            # wandb would ask for it on the terminal.
            raise InputError("there is no key: call `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
        # Its files belong into the run folder; on other storage, wandb chooses.
        folder = None if is_remote(run.uri) or "WANDB_DIR" in os.environ else run.uri
        before = folder is not None and any((Path(folder) / "wandb").glob(f"*run-*-{run.run_id}"))
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "tapir"),
            id=run.run_id,
            name=run.name,
            resume="allow",
            dir=folder,
            config=dict(run.config),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )
        self._axes: set[str] = set()
        if not offline and self._run.resumed:
            return {name: step for name, step in last_steps(run).items() if name in self._run.summary}
        return last_steps(run) if before else {}

    def write(self, points: Sequence[Point]) -> None:
        for (group, step), some in groupby(points, key=lambda point: (point.name.partition("/")[0], point.step)):
            if group not in self._axes:
                self._axes.add(group)
                self._run.define_metric(f"{group}/*", step_metric=f"{group}/{STEP}")
            self._run.log({f"{group}/{STEP}": step, **{point.name: point.value for point in some}})

    def close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "completed" else 1)
