"""Rows and ids of two whole runs at a fixed random seed, compared with stored digests: moving code changes nothing.

    TAPIR_WRITE_GOLDEN=1 python -m pytest -m slow tests/test_golden.py      # after an intended change

There is one digest for each column, so a renamed column changes one line of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pytest
import yaml

from tapir_ray.simulator.seed import write_seed
from tests.runs import ROOT

GOLDEN = Path(__file__).parent / "golden"
LOOP = (
    "simulator.seed_rows=400",
    "holdout.rows=50",
    "classify.label_rows=60",
    "classify.epochs=1",
    "train.initial_epochs=1",
)
"""The smallest settings: the output of trained models is not compared."""
LOOP_TABLES = (
    "seed/read",
    "seed/split",
    "seed/ingested",
    "seed/labels",
    "seed/training",
    "seed/packed",
    "seed/holdout",
)
REGENERATION = {
    "name": "golden",
    "simulator": {"scenario": "tasks", "seed_rows": 0},
    "seed_data": {"path": "seed.jsonl", "responses": "replace"},
    "regenerate": {
        "operations": ["filter", "classify", "rebalance", "answer", "rewrite", "judge"],
        "balanced_rows": 120,
        "shards": {"rows": 100, "at_once": 2},
    },
    "teacher": {
        "base_url": "simulator", "model": "simulated-teacher", "api_key_env": None, "sampling": {"max_tokens": 256},
    },
    "classify": {"by": "teacher"},
    "resources": {"cpus": 4, "transform_cpus": 0.4},
}  # fmt: skip


def digests(folder: Path) -> dict[str, Any]:
    """Returns `rows` and a digest of the values of each column.

    Rows are sorted by their values, since the order of files is not fixed.
    """
    table = pads.dataset(folder, format="parquet").to_table()
    rows = sorted(json.dumps(list(row.values()), ensure_ascii=False, sort_keys=True) for row in table.to_pylist())
    columns = zip(*map(json.loads, rows), strict=True) if rows else [()] * table.num_columns
    return {"rows": len(rows), "columns": dict(zip(table.column_names, map(digest, columns), strict=True))}


def digest(values: Iterable[Any]) -> str:
    text = json.dumps(list(values), ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def tapir(*arguments: str, cwd: Path = ROOT) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**inherited, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tapir_ray.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]


def check(name: str, found: dict[str, Any]) -> None:
    file = GOLDEN / f"{name}.json"
    if os.environ.get("TAPIR_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(file.read_text())


@pytest.mark.slow
def test_the_loop_has_the_stored_rows_up_to_its_first_training(tmp_path: Path) -> None:
    run = tmp_path / "run"
    tapir("run", "tests/loop.yaml", "--run-dir", str(run), "--until", "sft", "--set", *LOOP)
    check("loop", {table: digests(run / table) for table in LOOP_TABLES})


@pytest.mark.slow
def test_a_regeneration_has_the_stored_rows(tmp_path: Path) -> None:
    write_seed(tmp_path / "seed.jsonl", rows=250, seed=0)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(REGENERATION))
    run = tmp_path / "run"
    tapir("regenerate", "config.yaml", "--run-dir", str(run), cwd=tmp_path)
    tables = sorted(path.parent for path in run.rglob("_manifest.json"))
    check(
        "regeneration",
        {str(table.relative_to(run)): digests(table) for table in tables if any(table.glob("*.parquet"))},
    )
