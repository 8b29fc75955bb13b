"""`tapir.preview`: a few rows through every stage, before a run.

shown = tapir.preview("mine.yaml", rows=5)
print(shown)                                   # prompts, labels, answers, scores and new instructions
shown.stages["expand"].to_pylist()
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tapir_ray.api.caller import Caller, Tell, ignore
from tapir_ray.api.configs import Changes, ConfigLike, configured
from tapir_ray.api.forecast import without_batches
from tapir_ray.api.opening import started
from tapir_ray.cost.pilot import answered
from tapir_ray.cost.seed_sample import read_seed
from tapir_ray.curriculum.difficulty import with_difficulty
from tapir_ray.data import schemas
from tapir_ray.errors import InputError
from tapir_ray.methods import method_of

STAGES = {
    "label": "the teacher names the task",
    "fill": "the teacher answers a seed instruction",
    "score_seed": "the judge compares the answers to a seed instruction",
    "score_holdout": "the judge compares the answers to an instruction of the holdout",
    "expand": "the teacher writes a new instruction",
    "respond": "the teacher answers it",
    "score_new": "the judge compares the answers to it",
    "annotate": "the teacher corrects the student's explanation",
}
"""Stages of a preview in their order, in words."""
SHOWN = ("task", "response", "student_response", "teacher_score", "student_score", "difficulty", "verdict",
         "first_faulty", "revision", "status", "reason")  # fmt: skip
"""Columns of a row that the text of a preview has."""
MOST_CHARACTERS = 300
"""Characters of a value in the text; the tables have all."""


@dataclass(frozen=True)
class Preview:
    """Rows after each stage. `print(preview)` shows them, and so does a notebook."""

    stages: dict[str, pa.Table]
    """Rows by stage, in order: those of STAGES that the config has."""
    usage: dict[str, dict[str, float]]
    """Requests, tokens and dollars by role."""

    @property
    def cost(self) -> float:
        """US dollars of the requests; a role without a price counts as 0."""
        return round(sum(role["cost"] for role in self.usage.values()), 6)

    def __str__(self) -> str:
        return "\n\n".join(_stage(name, table) for name, table in self.stages.items())

    def __repr__(self) -> str:
        rows = ", ".join(f"{name}: {len(table)}" for name, table in self.stages.items())
        return f"Preview({rows})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Shows the rows in a notebook."""
        printer.text(str(self))


def preview(
    config: ConfigLike,
    rows: int = 5,
    *,
    changes: Changes | None = None,
    tell: Tell | None = None,
) -> Preview:
    """Sends a few seed rows through every stage that asks a model, and returns the rows after each.

    About ten requests a row are sent and paid for. Nothing is trained, and a student that the run serves itself is not
    started: part of the teacher's answer stands in for its answer. Nothing is kept on disk, but for replies if the
    config sets `cache.dir`. Ray is started, or used if it is initialised.

    Raises InputError as `run` does, and for a config that trains nothing; Stopped if the budget is too small, and
    StageError if all rows of a stage fail.
    """
    if rows < 1:
        raise InputError(f"rows is {rows}: give at least 1")
    given = without_batches(configured(config, changes))
    if not method_of(given).trains:
        raise InputError("preview needs a config that trains: for a regeneration, run it with seed_data.limit instead")
    with (
        tempfile.TemporaryDirectory(prefix="tapir-preview-") as folder,
        started(given, folder, caller=Caller(tell or ignore)) as context,
    ):
        found = answered(context, read_seed(context.config), rows)
        usage = context.roles.usage()
    spec = given.curriculum.difficulty.measure
    stages = {name: _table(name, found[name], spec) for name in STAGES if found.get(name)}
    return Preview(stages, usage)


def _table(name: str, rows: list[dict[str, Any]], measure: str) -> pa.Table:
    if name.startswith("score"):
        return with_difficulty(schemas.conform(rows, schemas.SCORED), spec=measure)
    if name == "annotate":
        return schemas.conform(rows, schemas.ANNOTATED)
    return schemas.conform(rows, schemas.GENERATED_ROWS if name in ("expand", "respond") else schemas.INSTRUCTIONS)


def _stage(name: str, table: pa.Table) -> str:
    """Returns the rows of a stage as text."""
    lines = [f"{name}: {STAGES[name]}"]
    for number, row in enumerate(table.to_pylist(), start=1):
        lines.append(f"  {number}. {_short(schemas.text_of(row['messages'] or []))}")
        shown = {key: row[key] for key in SHOWN if row.get(key) is not None and row.get(key) != schemas.OK}
        lines += [f"     {key}: {_short(value)}" for key, value in shown.items()]
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
