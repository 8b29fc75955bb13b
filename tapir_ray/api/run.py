"""`tapir.run`, and a run as an object.

run = tapir.run("mine.yaml", until="generate")
run = tapir.Run.open("s3://bucket/runs/mine")
run.summary["holdout"], run.cost, run.student
"""

from __future__ import annotations

import os
from typing import Any

from tapir_ray.api import launch
from tapir_ray.api.caller import Caller, Tell, ignore
from tapir_ray.api.configs import Changes, ConfigLike, configured, place_of
from tapir_ray.api.report import written
from tapir_ray.api.tables import Table, finished, table_of
from tapir_ray.config import Config
from tapir_ray.errors import InputError, Reached
from tapir_ray.methods import layout_of
from tapir_ray.run.run import Run as StoredRun

SUMMARY = "summary.json"


def run(
    config: ConfigLike,
    run_dir: str | os.PathLike[str] | None = None,
    *,
    until: str = "",
    start: str = "",
    fork: str | Run = "",
    changes: Changes | None = None,
    tell: Tell | None = None,
) -> Run:
    """Runs or continues the loop and returns the run.

    - `config`: path of a YAML file, its content as a mapping, or a `Config`; `changes` are values by key.
    - `run_dir`: folder or URI of the run; without it `run_dir` of the config, else `runs/NAME`.
    - `until`: stage to stop after, such as `generate`.
    - `start` (`STAGE=PATH`): your own table, with which the stage begins.
    - `fork`: an older run, whose still valid tables a new run takes over.
    - `tell`: gets warnings, and a line at the end of each stage: `tell=print`.

    A Ray that is already initialised is used and stays up. Else Ray is started, or the cluster of `RAY_ADDRESS` joined,
    and left at the end. No signal handler is installed: Ctrl-C raises KeyboardInterrupt, and the next call continues.

    Raises InputError for a mistake in config or data, before anything is spent, Stopped if the budget is used up (the
    same call with a larger one continues), and StageError if a stage cannot be completed.
    """
    given = configured(config, changes)
    place = place_of(given, run_dir)
    caller = Caller(tell or ignore)
    try:
        launch.launch(given, place, until, start, fork.uri if isinstance(fork, Run) else fork, caller)
    except Reached:
        caller.tell(f"the stage {until} is complete")
    return Run.open(place)


class Run:
    """A run on storage: its summary, its cost, its student and its tables. Reads only what is asked for."""

    def __init__(self, stored: StoredRun) -> None:
        self._stored = stored

    @classmethod
    def open(cls, uri: str | os.PathLike[str]) -> Run:
        """Returns the run in a folder or at a URI. Raises InputError if there is none."""
        stored = StoredRun.at(str(uri))
        if not stored.exists("config.yaml"):
            raise InputError(f"{stored.uri} holds no run (no config.yaml): give the run_dir that it was started with")
        return cls(stored)

    def __repr__(self) -> str:
        return f"Run({self.uri!r})"

    @property
    def uri(self) -> str:
        """Absolute path or URI of the run."""
        return self._stored.uri

    @property
    def config(self) -> Config:
        """Config of the last start."""
        return self._stored.stored_config()

    @property
    def summary(self) -> dict[str, Any]:
        """Content of `summary.json`: status, scores of each round, usage, cost. Raises InputError before there is one.

        A stopped run has a summary with the reason.
        """
        found = self._stored.find_json(SUMMARY)
        if found is None:
            raise InputError(f"{self.uri} has no {SUMMARY} yet: `status` says where it stands")
        return found

    @property
    def status(self) -> dict[str, Any]:
        """Where the run stands: stages, rounds, spending, and why the last attempt ended (`tapir status --json`).

        Takes up to 15 seconds if another machine works on the run.
        """
        from tapir_ray.report.status import status

        return status(self.uri, layout_of)

    @property
    def usage(self) -> dict[str, dict[str, float]]:
        """Requests, tokens and dollars by role, over all starts."""
        from tapir_ray.report.status import spend

        found: dict[str, dict[str, float]] = spend(self._stored, self.config)["roles"]
        return found

    @property
    def cost(self) -> float:
        """US dollars that the requests of all starts have cost; a role without a price counts as 0."""
        return round(sum(role["cost"] for role in self.usage.values()), 6)

    @property
    def student(self) -> str:
        """Folder, URI or HF name of the resulting student. Raises InputError if the run has none yet."""
        found: str | None = self.summary.get("student")
        if found is None:
            raise InputError(f"{self.uri} has no student yet: `status` says where it stands")
        return found

    @property
    def tables(self) -> list[str]:
        """Paths of the finished tables, in the order of their making."""
        return finished(self._stored, layout_of(self.config))

    def table(self, name: str, round: int | None = None) -> Table:
        """Returns a finished table by its name and round, or by its path in the run.

            run.table("scored", round=1)
            run.table("rounds/01/scored")
            run.table("dataset")                # the rows that a regeneration has made

        Raises InputError that lists the finished tables if there is no such table.
        """
        return table_of(self._stored, layout_of(self.config), name, round)

    def report(self, out: str | os.PathLike[str] | None = None) -> str:
        """Writes the report of the run as one HTML file and returns its path or URI.

        Without `out` it is `report.html` in the folder of the run. Raises InputError if it cannot be written.
        """
        return written(self.uri, None if out is None else str(out))
