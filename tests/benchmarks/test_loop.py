"""The loop's benchmark: which seconds count as start-up."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tapir_ray.cluster.processes import identity
from tapir_ray.run.run import Run
from tests.benchmarks.scripts import script

loop = script("loop")


def at(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds")


def test_overlapping_start_up_is_counted_once_and_work_is_not_counted(tmp_path: Path) -> None:
    """100 seconds: 10 until the first stage, two trainings that start in parallel, an engine's start, and work."""
    run = Run.at(str(tmp_path / "run"))
    run.write_json("summary.json", {"status": "done"})
    run.write_json("attempts/00001.json", {"time": at(0), "boot": "of another machine", "started": 12_345})
    run.write_json("attempts/00001.ended.json", {"time": at(100)})
    run.write_json("classifier/report.json", {"seconds": 20.0, "start_seconds": 12.0})
    run.write_json(
        "checkpoints/00/_manifest.json",
        {"table": "checkpoints/00", "rows": 0, "files": [], "extra": {"startup_seconds": 10.0}},
    )

    run.write_json(
        "control/sft/01/checkpoint/_manifest.json",
        {"table": "control/sft/01/checkpoint", "rows": 0, "files": [], "extra": {"startup_seconds": 4.0}},
    )

    def event(kind: str, second: int, **fields: Any) -> dict[str, Any]:
        return {"time": at(second), "attempt": 1, "event": kind, **fields}

    events = [
        event("table", 20, table="seed/read", seconds=10.0),
        event("first_rows", 18, table="seed/read", seconds=8.0),
        event("stage", 20, stage="ingest", round=0, seconds=10.0),
        event("table", 22, table="seed/packed", seconds=0.0),
        event("stage", 40, stage="train_classifier", round=0, seconds=20.0),
        event("stage", 45, stage="sft", round=0, seconds=25.0),
        event("first_rows", 80, table="rounds/01/scored", seconds=30.0),
        event("table", 90, table="rounds/01/scored", seconds=40.0),
        event("stage", 90, stage="score", round=1, seconds=45.0),
        event("table", 90, table="control/sft/01/packed", seconds=0.0),
        event("first_rows", 97, table="control/sft/01/holdout", seconds=2.0),
        event("table", 99, table="control/sft/01/holdout", seconds=4.0),
    ]
    run.append("events.jsonl", events)
    ratios, figures = loop.measured(run)
    assert figures["startup_seconds"] == {"ray": 10.0, "student_engine": 32.0, "training": 14.0, "classifier": 12.0}
    assert figures["stage_seconds"] == {"ingest": 10.0, "train_classifier": 20.0, "sft": 25.0, "score": 45.0}
    assert ratios["startup_share"] == pytest.approx(0.10 + 0.12 + 0.30 + 0.06)
    assert ratios["share_with_all_first_rows"] == pytest.approx(0.10 + 0.08 + 0.12 + 0.30 + 0.06)


def test_the_start_of_a_process_is_counted_from_the_boot() -> None:
    """The record of an attempt has clock ticks since the boot, not a time."""
    me = identity(os.getpid())
    assert loop.process_start({**me, "time": at(0)}) == pytest.approx(psutil.Process().create_time(), abs=1.5)


def test_a_run_that_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    run = Run.at(str(tmp_path / "run"))
    with pytest.raises(SystemExit, match="not done"):
        loop.measured(run)
    run.write_json("summary.json", {"status": "done"})
    with pytest.raises(SystemExit, match="first_rows"):
        loop.measured(run)
    run.write_json("attempts/00002.json", {"started": 0.0})
    with pytest.raises(SystemExit, match="more than one start"):
        loop.measured(run)
