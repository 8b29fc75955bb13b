"""Tracker that writes to Trackio: a database on this machine, or a Space of the Hugging Face hub.

    tapir run mine.yaml --set trackers=[trackio]; trackio show --project tapir

The project is `TRACKIO_PROJECT`, or `tapir`; the other variables of Trackio hold too, such as `TRACKIO_DIR` and
`TRACKIO_SPACE_ID`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from itertools import groupby
from typing import Any

from tapir_ray.run.trackers.base import RunInfo
from tapir_ray.run.trackers.curves import Curves, Point, last_steps


class Trackio(Curves):
    """Curves in a run of Trackio."""

    name, package = "trackio", "trackio"

    def open(self, run: RunInfo) -> Mapping[str, int]:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        project = os.environ.get("TRACKIO_PROJECT", "tapir")
        here = not (os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL"))
        found: dict[str, int] = {}
        for line in SQLiteStorage.get_logs(project, run.run_id) if here else []:
            found |= {name: line["step"] for name in line if "/" in name}
        # It prints where the numbers go; the standard output is for the tables of the command.
        with redirect_stdout(io.StringIO()):
            self._run: Any = trackio.init(
                project=project,
                name=run.run_id,
                config=dict(run.config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return found if here else last_steps(run)

    def write(self, points: Sequence[Point]) -> None:
        for step, some in groupby(points, key=lambda point: point.step):
            self._run.log({point.name: point.value for point in some}, step=step)

    def close(self, status: str) -> None:
        with redirect_stdout(io.StringIO()):
            self._run.finish()
