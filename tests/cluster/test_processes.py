"""A process is identified by start ticks, boot and pid namespace, so neither a clock nor a container confuses it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tapir_ray.cluster import processes
from tapir_ray.cluster.processes import identity, is_alive, seen
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError
from tapir_ray.llm.engine import watchdog
from tapir_ray.run import attempts
from tapir_ray.run.attempts import claim, owned, owner

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
OTHERS = [{"boot": "another"}, {"pid_namespace": "pid:[1]"}, {"host": "elsewhere"}, {"boot": None}]


def test_a_clock_step_changes_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil derives the start time from the boot time, which moves with the clock."""
    before = identity(os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1.0)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert identity(os.getpid()) == before and isinstance(before["started"], int)
    assert seen(before) is True


def test_the_watchdog_spares_a_living_engine_after_a_clock_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "CHECK_S", 0.05)
    worker = subprocess.Popen(SLEEP)
    watcher = threading.Thread(target=watchdog.watch, args=[identity(worker.pid), str(tmp_path)], daemon=True)
    watcher.start()
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1.0)
    time.sleep(0.5)
    assert watcher.is_alive() and worker.poll() is None
    worker.kill()
    worker.wait()
    watcher.join(20)
    assert not watcher.is_alive()


def test_a_process_that_cannot_be_inspected_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    me = identity(os.getpid())
    assert [seen({**me, **other}) for other in OTHERS] == [None] * len(OTHERS)
    assert seen({"pid": os.getpid(), "started": 1.0}) is None, "written by an older version"
    assert seen({**me, "started": me["started"] - 1}) is False and seen({**me, "pid": 2**22 + 1}) is False

    def refused(_: int) -> float:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(processes, "_started", refused)
    assert seen(me) is None and not is_alive(me)


@pytest.mark.parametrize("pid", [None, "x", 1.5, []])
def test_a_record_without_a_process_number_cannot_be_inspected(tmp_path: Path, pid: object) -> None:
    assert seen({**identity(os.getpid()), "pid": pid}) is None
    (tmp_path / "attempts").mkdir()
    for name in ("00003.json", "²", "٣.json"):
        (tmp_path / "attempts" / name).write_text("{}")
    assert attempts.latest(Storage.at(str(tmp_path))) == 3


def test_a_process_hidden_by_proc_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of other users are hidden under `hidepid`."""

    def hidden(pid: int) -> float:
        raise psutil.NoSuchProcess(pid)

    def not_ours(*_: int) -> None:
        raise PermissionError

    me = identity(os.getpid())
    monkeypatch.setattr(processes, "_started", hidden)
    assert seen(me) is False
    monkeypatch.setattr(processes.os, "kill", not_ours)
    assert seen(me) is None


def test_a_process_name_with_brackets_and_blanks_is_parsed(tmp_path: Path) -> None:
    program = tmp_path / "a) R (b"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    process = subprocess.Popen([str(program), "60"])
    try:
        assert seen(identity(process.pid)) is True
        process.kill()
        deadline = time.monotonic() + 10
        while seen({**identity(process.pid)}) is not False and time.monotonic() < deadline:
            time.sleep(0.05)
        assert seen(identity(process.pid)) is False, "a zombie"
    finally:
        process.wait()


def test_without_proc_a_process_is_identified_by_its_start_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no /proc."""
    monkeypatch.setattr(processes, "PROC", tmp_path)
    me = identity(os.getpid())
    assert me["boot"] is None and isinstance(me["started"], float)
    assert seen(me) is True and seen({**me, "started": me["started"] + 1}) is False


@pytest.mark.parametrize("other", [{"boot": "another"}, {"pid_namespace": "pid:[1]"}])
def test_a_second_container_with_the_same_host_name_waits_for_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, str]
) -> None:
    monkeypatch.setattr(attempts, "BEAT_S", 0.1)
    monkeypatch.setattr(attempts, "PATIENCE_S", 0.5)
    storage = Storage.at(str(tmp_path))
    with owned(storage):
        # In the second container that number may belong to another process, or to none.
        there = {**storage.read_json("attempts/00001.json"), **other, "pid": 2**22 + 1}
        storage.write_json("attempts/00001.json", there)
        with pytest.raises(InputError, match="in use by attempt 1"):
            claim(storage)
    (tmp_path / "attempts/00001.ended.json").unlink()
    assert claim(storage) == 2, "its heartbeats have stopped"


def test_a_suspended_observer_has_not_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that it was suspended does not count as time without a heartbeat."""
    storage = Storage.at(str(tmp_path))
    storage.write_json("attempts/00001.json", {"host": "elsewhere", "pid": 1, "token": "t"})
    storage.write_json("attempts/00001.beat.json", {"beat": 1})
    clock, looks = [0.0], [0]

    def sleep(seconds: float) -> None:
        looks[0] += 1
        clock[0] += 3600.0 if looks[0] == 2 else seconds
        if looks[0] == 5:
            storage.write_json("attempts/00001.beat.json", {"beat": 2})

    monkeypatch.setattr(attempts.time, "sleep", sleep)
    monkeypatch.setattr(attempts.time, "monotonic", lambda: clock[0])
    found = owner(storage)
    assert found is not None and found.alive and looks[0] == 5


def test_an_overtaken_owner_writes_no_heartbeat_after_its_suspension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "interrupt", lambda error: None)
    storage = Storage.at(str(tmp_path))
    attempt = claim(storage)
    storage.write_json("attempts/00002.json", {"token": "of the other"})
    attempts._beat(storage, attempt, threading.Event(), list)
    assert not storage.exists("attempts/00001.beat.json")


def test_an_error_in_the_reported_facts_stops_no_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without heartbeats another machine would take a living owner for dead."""
    monkeypatch.setattr(attempts, "BEAT_S", 0.02)
    calls = []

    def tell() -> list[dict[str, str]]:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("dictionary changed size during iteration")
        return []

    storage = Storage.at(str(tmp_path))
    with owned(storage, tell):
        deadline = time.monotonic() + 10
        while not storage.exists("attempts/00001.beat.json") and time.monotonic() < deadline:
            time.sleep(0.01)
    assert storage.exists("attempts/00001.beat.json")
