"""A run that is killed again and again ends like one that was left alone: the same rows, nothing paid twice.

The command as a user runs it, killed by SIGKILL at random moments of every stage and started again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as pads
import pytest
import yaml

from tapir_ray.llm.watch import identity, is_alive

ROOT = Path(__file__).parents[1]
IN_FLIGHT = 16
ROWS_PER_PART = 16
TABLES = {
    "seed/instructions": ("source", "instruction_id"),
    "rounds/01/scored": ("instruction_id",),
    "rounds/01/expanded": ("draw_id",),
    "rounds/01/generated": ("draw_id",),
    "rounds/01/training": ("pair_id",),
    "evaluation/holdout": ("instruction_id",),
}
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "")
"""Ray's own, which end by themselves a minute after their node; "" is a process that has just ended."""
MOMENTS = [
    "seed/split",
    "seed/instructions",
    "rounds/01/scored",
    "rounds/01/scored",
    "rounds/01/expanded",
    "rounds/01/generated",
    "rounds/01/packed",
    "evaluation/holdout",
]
"""A kill falls up to two seconds after the folder of the table is there."""


def config(folder: Path, log: Path, **student: Any) -> Path:
    size = {"hidden_size": 64, "intermediate_size": 128, "layers": 1, "heads": 2, "vocab_size": 500, "max_length": 192}
    endpoint = {"base_url": "simulator", "api_key_env": None, "limits": {"in_flight": IN_FLIGHT}}
    content = {
        "name": "restart",
        "simulator": {"scenario": "tasks", "seed_rows": 400, "latency_s": 0.2, "log": str(log)},
        "holdout": {"rows": 40},
        "student": {"create": size, "dtype": "float32", "max_model_len": 192, **student},
        "teacher": {**endpoint, "model": "simulated-teacher", "sampling": {"max_tokens": 256}},
        "classify": {"by": "teacher"},
        "curriculum": {"rounds": 1, "alpha": 0.5, "tasks": "seed", "difficulty": {"top_fraction": 0.5}},
        "score": {"max_rows": 120},
        "expand": {"size": 60},
        "train": {
            "sequence_length": 192, "learning_rate": 3e-3, "global_batch": 4, "micro_batch": 2, "precision": "float32",
        },
        "resources": {"cpus": 4, "stage_cpus": 0.4, "rows_per_part": ROWS_PER_PART},
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


SIMULATED = {
    "engine": "openai",
    "endpoint": {
        "base_url": "simulator",
        "model": "simulated-student",
        "api_key_env": None,
        "limits": {"in_flight": IN_FLIGHT},
    },
}


def start(path: Path, run_dir: Path, output: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "tapir_ray.cli", "run", str(path), "--run-dir", str(run_dir)]
    with output.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT, env=environment)


def finish(path: Path, run_dir: Path, output: Path) -> None:
    assert start(path, run_dir, output).wait(500) == 0, output.read_text()[-4000:]


def kill_during(process: subprocess.Popen[bytes], table: Path, delay: float) -> bool:
    """Kill the driver a little after a table has begun, and see that nothing it started survives; False if it ended."""
    deadline = time.monotonic() + 300
    while not table.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    family = [identity(child.pid) for child in psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(
        is_alive(entry) and _title(psutil.Process(entry["pid"])) not in AGENTS for entry in family
    ):
        time.sleep(0.2)
    left = [title for entry in family if is_alive(entry) and (title := _title(psutil.Process(entry["pid"])))]
    assert not [title for title in left if title not in AGENTS], f"processes that survived the kill: {left}"
    return True


def keys(run_dir: Path, table: str) -> list[tuple[Any, ...]]:
    rows = pads.dataset(run_dir / table, format="parquet", exclude_invalid_files=True).to_table()
    return sorted(zip(*(rows[name].to_pylist() for name in TABLES[table]), strict=True))


def requests(log: Path) -> Counter[tuple[str, int]]:
    """How often each request was answered."""
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return Counter((line["prompt"], line["seed"]) for line in lines if line.get("status") == 200 and "prompt" in line)


@pytest.mark.restart
@pytest.mark.timeout(1800)
def test_a_run_killed_in_every_stage_ends_like_one_left_alone(tmp_path: Path) -> None:
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    undisturbed = config(alone, alone / "log.jsonl", **SIMULATED)
    finish(undisturbed, alone / "run", alone / "output.txt")

    disturbed, moments = config(killed, killed / "log.jsonl", **SIMULATED), random.Random(0)
    kills = 0
    for table in MOMENTS:
        process = start(disturbed, killed / "run", killed / "output.txt")
        kills += kill_during(process, killed / "run" / table, moments.uniform(0, 2))
    assert kills >= 6, "most of the moments came before the end"
    finish(disturbed, killed / "run", killed / "output.txt")

    for table in TABLES:
        assert keys(killed / "run", table) == keys(alone / "run", table), table
        assert len(set(keys(killed / "run", table))) == len(keys(killed / "run", table)), table
    once, again = requests(alone / "log.jsonl"), requests(killed / "log.jsonl")
    assert set(once) == set(again)
    repeated = sum(again.values()) - len(again) - (sum(once.values()) - len(once))
    print(f"{kills} kills, {len(once)} requests, {repeated} repeated")
    assert repeated <= kills * 2 * IN_FLIGHT, "no more than was in flight of each role at a kill"


@pytest.mark.restart
@pytest.mark.timeout(1500)
def test_no_engine_survives_a_kill(tmp_path: Path) -> None:
    path, run_dir, output = config(tmp_path, tmp_path / "log.jsonl"), tmp_path / "run", tmp_path / "output.txt"
    records = run_dir / "processes"
    for table in ("rounds/01/scored", "evaluation/holdout"):
        process = start(path, run_dir, output)
        deadline = time.monotonic() + 300
        # The engine is up once its processes are recorded.
        while time.monotonic() < deadline and process.poll() is None:
            if (run_dir / table).exists() and any(is_alive(json.loads(file.read_text())) for file in _files(records)):
                break
            time.sleep(0.1)
        assert kill_during(process, run_dir / table, 3.0), output.read_text()[-4000:]
        assert not any(is_alive(json.loads(file.read_text())) for file in _files(records))
    finish(path, run_dir, output)
    for table, key in TABLES.items():
        found = keys(run_dir, table)
        assert found and len(set(found)) == len(found), (table, key)


def _files(folder: Path) -> list[Path]:
    return list(folder.glob("*.json")) if folder.exists() else []


@pytest.mark.restart
@pytest.mark.timeout(900)
def test_a_signal_ends_cleanly_and_a_second_start_is_refused(tmp_path: Path) -> None:
    path, run_dir, output = config(tmp_path, tmp_path / "log.jsonl", **SIMULATED), tmp_path / "run", tmp_path / "o.txt"
    process = start(path, run_dir, output)
    deadline = time.monotonic() + 120
    while not (run_dir / "seed/instructions").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert start(path, run_dir, tmp_path / "second.txt").wait(60) == 2
    assert f"process {process.pid} of" in (tmp_path / "second.txt").read_text()
    process.terminate()
    assert process.wait(60) == 3, output.read_text()[-4000:]
    assert "stopped by SIGTERM; what is finished is kept" in output.read_text()
    finish(path, run_dir, output)


@pytest.mark.restart
@pytest.mark.timeout(900)
def test_a_killed_worker_is_replaced_while_the_run_goes_on(tmp_path: Path) -> None:
    path, run_dir, output = config(tmp_path, tmp_path / "log.jsonl", **SIMULATED), tmp_path / "run", tmp_path / "o.txt"
    process = start(path, run_dir, output)
    killed: set[str] = set()
    wanted = ("Asker", "Curriculum", "Ledger")
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if (run_dir / "rounds/01/scored").exists():
            for child in psutil.Process(process.pid).children(recursive=True):
                title = _title(child)
                for name in wanted:
                    if name in title and name not in killed:
                        child.kill()
                        killed.add(name)
        time.sleep(0.2)
    assert process.wait(300) == 0, output.read_text()[-4000:]
    assert killed == set(wanted)
    for table in TABLES:
        found = keys(run_dir, table)
        assert found and len(set(found)) == len(found), table


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
