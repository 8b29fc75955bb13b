"""Contexts for steps that ask no model: a run, a config and a taxonomy on the shared Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pyarrow.dataset as pads

from tapir_ray.config import parse
from tapir_ray.curriculum import tasks
from tapir_ray.curriculum.actor import Handle
from tapir_ray.llm.roles import Roles
from tapir_ray.methods import layout_of
from tapir_ray.run.layout import Table
from tapir_ray.run.progress import Progress
from tapir_ray.run.run import Run
from tapir_ray.run.trackers import Events, Trackers
from tapir_ray.steps.context import Context


def write(path: Path, rows: list[Any]) -> str:
    """Writes a JSONL file of the rows and returns its path; a string is written as a line of its own."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def context_for(folder: Path, seed_path: str, **sections: Any) -> Context:
    """Returns a context of the run in `folder/run`; `sections` extend the config, `seed_data` extends its section."""
    config = parse(
        {
            "name": "test",
            "student": {"model": "m"},
            "teacher": {"base_url": "http://127.0.0.1:9/v1", "api_key_env": None},
            "holdout": {"rows": 4},
            **sections,
            "seed_data": {"path": seed_path, **sections.get("seed_data", {})},
        }
    )
    run = Run.open(config, str(folder / "run"))
    roles = Roles(config, run.run_id)
    curriculum = cast(Handle, None)
    taxonomy, trackers = tasks.load(config.curriculum), Trackers(Events(run))
    taxonomy = taxonomy.styling(config.rewrite.tasks, complete=not taxonomy.from_seed)
    return Context(run, config, layout_of(config), roles, taxonomy, curriculum, Progress(roles.usage), trackers)


def rows_of(context: Context, table: Table | str) -> list[dict[str, Any]]:
    """Returns all rows of a table of the run."""
    return pads.dataset(context.run.files(table), filesystem=context.run.fs, format="parquet").to_table().to_pylist()
