"""The watchdog: processes of an engine end with its worker, however early it dies; orphans are ended by their
records."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tapir_ray.data.storage import Storage
from tapir_ray.llm.engine import watchdog
from tapir_ray.llm.engine.watchdog import PROCESSES, end_orphans, identity, is_alive

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
WORKER = """
import os, subprocess, sys, time
from tapir_ray.llm.engine.watchdog import watch_engine
watch_engine()
while not os.path.exists(sys.argv[1] + "/go"): time.sleep(0.02)
for _ in range(2):
    child = subprocess.Popen([sys.executable, "-c", "import sys, time; sys.path; time.sleep(60)"])
    print(child.pid, flush=True)
seconds = float(sys.argv[2])
if seconds and not os.fork(): time.sleep(60)
time.sleep(seconds)
os.kill(os.getpid(), 9)
"""


def test_only_orphans_of_this_run_are_ended(tmp_path: Path) -> None:
    orphan, other = subprocess.Popen(SLEEP), subprocess.Popen(SLEEP)
    host = socket.gethostname()
    storage = Storage.at(str(tmp_path))
    storage.write_json("a.json", {"host": host, **identity(orphan.pid)})
    storage.write_json("b.json", {"host": host, "pid": other.pid, "started": 1.0})
    storage.write_json("c.json", {"host": "elsewhere", **identity(other.pid)})
    assert end_orphans(str(tmp_path)) == [orphan.pid]
    assert orphan.wait(10) == -9
    assert other.poll() is None
    other.kill()
    other.wait()
    assert storage.children("") == ["c.json"]


def test_a_reused_process_number_is_another_process(tmp_path: Path) -> None:
    process = subprocess.Popen(SLEEP)
    assert is_alive(identity(process.pid))
    assert not is_alive({"pid": process.pid, "started": identity(process.pid)["started"] - 100})
    process.kill()
    process.wait()


def run_worker(folder: Path, seconds: float) -> list[int]:
    """Runs a watched worker that starts two processes and then lives for `seconds`; returns the process ids of both."""
    environment = {**os.environ, PROCESSES: str(folder / "processes")}
    command = [sys.executable, "-c", WORKER, str(folder), str(seconds)]
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    wait_for_watcher(worker.pid)
    (folder / "go").touch()
    assert worker.stdout is not None
    pids = [int(worker.stdout.readline()) for _ in range(2)]
    assert worker.wait(30) == -9
    return pids


def wait_for_watcher(pid: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            if "tapir_ray.llm.engine.watchdog" in child.cmdline() and time.time() - child.create_time() > 2:
                return
        time.sleep(0.1)
    raise AssertionError("no watcher")


def alive(pids: list[int], seconds: float = 10.0) -> list[int]:
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if psutil.pid_exists(pid) and is_alive(identity(pid))]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return left


def test_processes_started_just_before_a_worker_dies_end_too(tmp_path: Path) -> None:
    assert alive(run_worker(tmp_path, 0.0)) == []


def test_processes_of_a_worker_are_recorded_and_end_with_it(tmp_path: Path) -> None:
    pids = run_worker(tmp_path, 3.0)
    recorded = [json.loads(file.read_text()) for file in (tmp_path / "processes").glob("*.json")]
    assert {entry["pid"] for entry in recorded if not entry["worker"]} > set(pids), "and the forked process"
    (worker,) = (entry for entry in recorded if entry["worker"])
    assert worker["log"] and worker["host"] == socket.gethostname()
    assert alive([entry["pid"] for entry in recorded]) == []


DEAF_WORKER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "EngineCore"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_that_does_not_notice_the_death_of_its_engine_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "NOTICE_S", 1.0)
    log = tmp_path / "worker.log"
    with log.open("w") as stderr:
        worker = subprocess.Popen([sys.executable, "-c", DEAF_WORKER], stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert worker.stdout is not None
    engine = int(worker.stdout.readline())
    watcher = threading.Thread(target=watchdog.watch, args=[identity(worker.pid), str(tmp_path)])
    watcher.start()
    time.sleep(2.5)
    assert worker.poll() is None
    os.kill(engine, 9)
    assert worker.wait(20) == -9
    watcher.join(20)
    assert not watcher.is_alive()
    assert "EngineCore ended" in log.read_text()
