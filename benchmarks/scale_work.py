"""Runs one measurement of benchmarks/scale.py, which watches the memory of this process.

python -m benchmarks.scale_work PART ROWS FOLDER       # writes FOLDER/figures.json: seconds, seconds by step, counts
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import ray.data

from benchmarks import echo, scale_data
from benchmarks.result import local_ray
from tapir_ray.api.offline import check_offline
from tapir_ray.api.opening import opened
from tapir_ray.config import Config, Curriculum, parse
from tapir_ray.curriculum import tasks
from tapir_ray.data.dedup import bands, mark_near_duplicates
from tapir_ray.data.schemas import FILTERED, GENERATED_ROWS, TRAINING, conform, with_columns
from tapir_ray.methods.regenerate import regenerate as run_regenerate
from tapir_ray.run.attempts import owned
from tapir_ray.run.layout import Table
from tapir_ray.run.run import Run
from tapir_ray.steps import mix, score
from tapir_ray.steps.context import Context
from tapir_ray.steps.dataset import counted
from tapir_ray.steps.generate import draws
from tapir_ray.transforms.filters.duplicates import with_order

TRANSFORM_CPUS = 0.5
CPUS = 4
WARM_ROWS, WARM_FILES = 2_000, int(CPUS / TRANSFORM_CPUS)
"""Rows regenerated first, so that Ray and its workers run when the clock starts: one file for each possible worker."""
PART_ROWS, IN_FLIGHT, ROWS_PER_BLOCK = 100_000, 4096, 1024
EVALUATION_ROWS = 1_000
BALANCED, DRAWN, MIXED_TOKENS = 0.6, 0.05, 10
"""Share of rows that a rebalancing keeps, share drawn to expand, and tokens of a mix per row."""
THRESHOLD, EARLIER = 0.7, 0.1
"""Similarity of near-duplicates, and the share of instructions from an earlier round."""
ENDPOINT = {"model": "echo", "base_url": "http://127.0.0.1:9/v1", "api_key_env": None,
            "limits": {"in_flight": IN_FLIGHT}}  # fmt: skip


class Clock:
    """Clock of consecutive steps, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = self._last = time.monotonic()

    def step(self, name: str) -> None:
        """Counts the time since the last step as this step."""
        now = time.monotonic()
        self.seconds[name], self._last = round(now - self._last, 2), now

    @property
    def total(self) -> float:
        return round(self._last - self._began, 2)


def regenerate(rows: int, folder: Path) -> dict[str, Any]:
    """Filters, decontaminates and rebalances a dataset, and answers it by an engine that echoes."""
    echo.install()
    labels = _labels()
    scale_data.source(folder / "warm", WARM_ROWS, labels, rows_per_file=WARM_ROWS // WARM_FILES)
    scale_data.source(folder / "data", rows, labels)
    evaluation = folder / "evaluation.jsonl"
    seconds: dict[str, float] = {}
    held = next(scale_data.texts(EVALUATION_ROWS, first=10**10))
    evaluation.write_text("".join(json.dumps({"instruction": text, "output": ""}) + "\n" for text in held))
    with local_ray(folder):
        for name, count in (("warm", WARM_ROWS), ("data", rows)):
            settings = {
                "seed_data": {"path": str(folder / name), "responses": "replace", "task_column": "task"},
                "classify": {"by": "column"},
                "filter": {"evaluation_sets": [str(evaluation)]},
                "regenerate": {
                    "operations": ["filter", "decontaminate", "rebalance", "answer"],
                    "balanced_rows": int(BALANCED * count),
                    "shards": {"rows": PART_ROWS},
                },
            }
            with _context(settings, folder / f"run-{name}") as context:
                clock, driver = Clock(), time.process_time()
                made = run_regenerate(context)
                clock.step("all")
                driver = time.process_time() - driver
                steps = _steps(context.run, clock.total)
                seconds[name] = clock.total
    return {
        "seconds": seconds["data"],
        "start_seconds": seconds["warm"],
        "driver_cpu_seconds": round(driver, 1),
        "steps": steps,
        "made": {key: made[key] for key in ("rows", "ok", "shards")},
    }


def _steps(run: Run, total: float) -> dict[str, float]:
    """Returns seconds by step of a regeneration, from its events."""
    table = {event["table"]: event["seconds"] for event in run.events("table")}
    stage = {event["stage"]: event["seconds"] for event in run.events("stage")}
    steps = {
        "read": table["seed/read"],
        "check": table["seed/checked"],
        "mark": table["seed/ingested"],
        "rebalance": stage["rebalance"],
        "reanswer": stage["reanswer"],
    }
    steps["find repeats"] = stage["clean"] - steps["read"] - steps["check"] - steps["mark"]
    steps["write the dataset"] = total - stage["clean"] - stage["rebalance"] - stage["reanswer"]
    return {name: round(seconds, 2) for name, seconds in steps.items()}


def curriculum(rows: int, folder: Path) -> dict[str, Any]:
    """Plans a round from a scored table, draws from the hard rows and mixes a training set.

    Token counts are taken from the number of words: the cost of the tokenizer is not measured.
    """
    settings = {
        "seed_data": {"path": "none"},
        "student": {"model": "none"},
        "expand": {"size": int(DRAWN * rows)},
        "mix": {"size": MIXED_TOKENS * rows},
    }
    labels = _labels()
    with local_ray(folder), _context(settings, folder / "run", check=False) as context:
        run, tables = context.run, context.loop.round(1)
        drawn = Table("rounds/01/draws", GENERATED_ROWS)
        for table, count, write in (
            (tables.scored, rows, scale_data.scored),
            (tables.generated, rows // 100, scale_data.generated),
        ):
            write(Path(run.path(table.path)), count, labels)
            run.publish(table)
        clock = Clock()
        plan = score.plan(context, 1)
        clock.step("stats and plan")
        context.write(drawn, draws(context, 1, plan), "draws")
        clock.step("sample")
        context.write(tables.pool, context.map(mix.pools(context, 1, plan), _with_tokens), "pools")
        clock.step("pools")
        mix.mix(context, 1, plan)
        clock.step("mix")
        made = {table.name: run.manifest(table).rows for table in (drawn, tables.pool, tables.training)}
    return {"seconds": clock.total, "steps": clock.seconds, "made": made}


def _with_tokens(batch: pa.Table) -> pa.Table:
    words = pc.add(pc.count_substring(batch["response"], " "), 1)
    return conform(with_columns(batch, tokens=words), TRAINING)


def duplicates(rows: int, folder: Path) -> dict[str, Any]:
    """Finds near-duplicates among instructions, the first of which are from an earlier round."""
    earlier = int(EARLIER * rows)
    scale_data.instructions(folder / "earlier", earlier)
    scale_data.instructions(folder / "current", rows - earlier, first=earlier)
    with local_ray(folder):
        clock = Clock()
        older = bands(_ordered(folder / "earlier"), str(folder / "earlier-bands"), THRESHOLD, TRANSFORM_CPUS)
        clock.step("bands of the earlier")
        marked = mark_near_duplicates(
            _ordered(folder / "current"), str(folder / "bands"), [older], THRESHOLD, TRANSFORM_CPUS
        )
        clock.step("bands of the others")
        statuses: Counter[str] = Counter()
        for batch in marked.select_columns(["status"]).iter_batches(batch_format="pyarrow", batch_size=None):
            statuses.update(counted(batch["status"]))
        clock.step("join and mark")
    files = [file for name in ("earlier-bands", "bands") for file in (folder / name).iterdir()]
    return {
        "seconds": clock.total,
        "steps": clock.seconds,
        "made": {
            "compared": statuses.total(),
            "marked": statuses[FILTERED],
            "band_files": len(files),
            "band_bytes": sum(file.stat().st_size for file in files),
        },
    }


def _ordered(folder: Path) -> ray.data.Dataset:
    rows = ray.data.read_parquet(str(folder), filesystem=pafs.LocalFileSystem(), num_cpus=TRANSFORM_CPUS)
    return rows.map_batches(with_order, batch_format="pyarrow", batch_size=None, num_cpus=TRANSFORM_CPUS)


def _labels() -> list[str]:
    """Returns the tasks with a weight."""
    return sorted(tasks.load(Curriculum()).weights)


@contextmanager
def _context(settings: dict[str, Any], folder: Path, check: bool = True) -> Iterator[Context]:
    """Returns the context of a run in `folder` on the running Ray, without endpoints."""
    resources = {"cpus": CPUS, "transform_cpus": TRANSFORM_CPUS, "rows_per_block": ROWS_PER_BLOCK}
    config: Config = parse({"name": "scale", "teacher": ENDPOINT, "resources": resources, **settings})
    taxonomy = check_offline(config, labelled=True) if check else tasks.load(config.curriculum)
    run = Run.open(config, str(folder))
    with owned(run, run.under_way) as run.attempt, opened(run, config, taxonomy, None) as context:
        yield context


if __name__ == "__main__":
    part, rows, folder = sys.argv[1:]
    work = {"regenerate": regenerate, "curriculum": curriculum, "duplicates": duplicates}[part]
    figures = work(int(rows), Path(folder))
    (Path(folder) / "figures.json").write_text(json.dumps(figures))
