"""Whole runs for tests, by the command as a user runs it: started, killed, continued and compared."""

from __future__ import annotations

import bisect
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import yaml

from tapir_ray.data.schemas import ID
from tapir_ray.data.storage import Storage
from tapir_ray.llm.engine.watchdog import identity, is_alive

ROOT = Path(__file__).parents[1]
IN_FLIGHT = 16
ROWS_PER_BLOCK = 16
TABLES = {
    "seed/instructions": ("source", "instruction_id"),
    "rounds/01/scored": ("instruction_id",),
    "rounds/01/expanded": ("draw_id",),
    "rounds/01/generated": ("draw_id",),
    "rounds/01/training": ("pair_id",),
    "evaluation/holdout": ("instruction_id",),
}
ENDPOINT = {"base_url": "simulator", "api_key_env": None, "limits": {"in_flight": IN_FLIGHT}}
SIMULATED = {"engine": "openai", "endpoint": {**ENDPOINT, "model": "simulated-student"}}
"""A student behind an endpoint: no engine has to start."""
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "")
"""Ray's agents, which end on their own a minute after their node; "" is a process that has just ended."""


def write_config(folder: Path, student: dict[str, Any] | None = None, **sections: Any) -> Path:
    """Writes the config of a short run of one round in `folder`; its simulator logs to `folder/log.jsonl`."""
    size = {"hidden_size": 64, "intermediate_size": 128, "layers": 1, "heads": 2, "vocab_size": 500, "max_length": 192}
    simulator = {"scenario": "tasks", "seed_rows": 400, "latency_s": 0.2, "log": str(folder / "log.jsonl")}
    content = {
        "name": "restart",
        "simulator": simulator,
        "holdout": {"rows": 40},
        "student": {"create": size, "dtype": "float32", "max_model_len": 192, **(student or {})},
        "teacher": {**ENDPOINT, "model": "simulated-teacher", "sampling": {"max_tokens": 256}},
        "classify": {"by": "teacher"},
        "curriculum": {"rounds": 1, "alpha": 0.5, "tasks": "seed", "difficulty": {"top_fraction": 0.5}},
        "score": {"max_rows": 120},
        "expand": {"size": 60},
        "train": {
            "sequence_length": 192, "learning_rate": 3e-3, "global_batch_size": 4, "micro_batch_size": 2,
            "precision": "float32",
        },
        "resources": {"cpus": 4, "transform_cpus": 0.4, "rows_per_block": ROWS_PER_BLOCK},
        **sections,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Driver:
    """Starts `tapir run` (or another `verb`) of one config in one folder any number of times; its output goes to a
    file."""

    def __init__(self, config: Path, run_dir: str | Path, verb: str = "run", **environment: str) -> None:
        self.config, self.verb = config, verb
        self.run = Storage.at(str(run_dir))
        self.output = config.with_name("output.txt")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self._environment = {**inherited, **environment}

    def start(self, output: Path | None = None) -> subprocess.Popen[bytes]:
        """Starts the command; returns its process."""
        command = [sys.executable, "-m", "tapir_ray.cli", self.verb, str(self.config), "--run-dir", self.run.uri]
        with (output or self.output).open("ab") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=stream, cwd=ROOT, env=self._environment)

    def finish(self) -> None:
        """Starts the command and asserts that it succeeds."""
        assert self.start().wait(500) == 0, self.printed()

    def printed(self) -> str:
        """Returns the last 4,000 characters of the output."""
        return self.output.read_text()[-4000:]

    def wait_for(self, name: str, process: subprocess.Popen[bytes], seconds: float = 300) -> bool:
        """Waits until the folder of a table exists; returns False if the process ended before."""
        deadline = time.monotonic() + seconds
        while not self.run.exists(name) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return process.poll() is None

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Returns the rows, sorted by their keys: those of a suite by their id."""
        files = self.run.read_json(f"{table}/_manifest.json")["files"]
        paths = [self.run.path(f"{table}/{name}") for name in files]
        rows = pads.dataset(paths, filesystem=self.run.fs, format="parquet").to_table().to_pylist()
        return sorted(rows, key=lambda row: [row[name] for name in TABLES.get(table, ID)])

    def keys(self, table: str) -> list[tuple[Any, ...]]:
        """Returns the keys of the rows, sorted."""
        return [tuple(row[name] for name in TABLES[table]) for row in self.rows(table)]

    def check_keys(self) -> None:
        """Asserts that every table has rows, each of them once."""
        for table in TABLES:
            found = self.keys(table)
            assert found and len(set(found)) == len(found), table

    def requests(self) -> Counter[tuple[str, int]]:
        """Returns how often each request was answered."""
        return Counter((line["prompt"], line["seed"]) for line in self._answered())

    def repeated(self, starts: list[float]) -> list[int]:
        """Counts requests that were answered before, by the start that asked them again (`starts`: times in rising
        order)."""
        seen: set[tuple[str, int]] = set()
        found = [0] * (len(starts) + 1)
        for line in sorted(self._answered(), key=lambda line: line["arrived"]):
            key = (line["prompt"], line["seed"])
            found[bisect.bisect(starts, line["arrived"])] += key in seen
            seen.add(key)
        return found

    def files(self, folder: str) -> set[str]:
        """Returns the files in a folder of the run, at any depth."""
        selector = pafs.FileSelector(self.run.path(folder), recursive=True, allow_not_found=True)
        found = self.run.fs.get_file_info(selector)
        return {info.path for info in found if info.type == pafs.FileType.File}

    def tokens(self) -> int:
        """Returns the input and output tokens of all answers."""
        return sum(line["prompt_tokens"] + line["completion_tokens"] for line in self._answered())

    def _answered(self) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.config.with_name("log.jsonl").read_text().splitlines())
        return [line for line in lines if line.get("status") == 200 and "prompt" in line]


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kills a driver and asserts that none of its processes survives; returns False if it had ended."""
    if process.poll() is not None:
        return False
    family = [identity(child.pid) for child in psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.wait()
    assert_ended(family)
    return True


def assert_ended(family: list[dict[str, Any]]) -> None:
    """Waits half a minute for processes to end, except Ray's own agents."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(is_alive(entry) and _title_of(entry) not in AGENTS for entry in family):
        time.sleep(0.2)
    left = [title for entry in family if is_alive(entry) and (title := _title_of(entry)) not in AGENTS]
    assert not left, f"processes that survived: {left}"


def title(process: psutil.Process) -> str:
    """Returns the command line; empty for a process that has ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def _title_of(entry: dict[str, Any]) -> str:
    try:
        return title(psutil.Process(entry["pid"]))
    except psutil.Error:
        return ""
