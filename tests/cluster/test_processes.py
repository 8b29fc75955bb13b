"""A process is known by its start ticks, boot and pid namespace: no clock and no second container makes it another."""

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


def test_a_step_of_the_clock_changes_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil converts the start by the time of the boot, which moves with the clock."""
    before = identity(os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1.0)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert identity(os.getpid()) == before and isinstance(before["started"], int)
    assert seen(before) is True


def test_a_watcher_does_not_end_a_living_engine_after_a_step_of_the_clock(
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


def test_what_cannot_be_looked_at_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    me = identity(os.getpid())
    assert [seen({**me, **other}) for other in OTHERS] == [None] * len(OTHERS)
    assert seen({"pid": os.getpid(), "started": 1.0}) is None, "of an older version"
    assert seen({**me, "started": me["started"] - 1}) is False and seen({**me, "pid": 2**22 + 1}) is False

    def refused(_: int) -> float:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(processes, "_started", refused)
    assert seen(me) is None and not is_alive(me)


@pytest.mark.parametrize("pid", [None, "x", 1.5, []])
def test_a_process_without_a_number_cannot_be_seen(tmp_path: Path, pid: object) -> None:
    assert seen({**identity(os.getpid()), "pid": pid}) is None
    (tmp_path / "attempts").mkdir()
    for name in ("00003.json", "²", "٣.json"):
        (tmp_path / "attempts" / name).write_text("{}")
    assert attempts.latest(Storage.at(str(tmp_path))) == 3


def test_a_process_that_proc_hides_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user, under `hidepid`."""

    def hidden(pid: int) -> float:
        raise psutil.NoSuchProcess(pid)

    def not_ours(*_: int) -> None:
        raise PermissionError

    me = identity(os.getpid())
    monkeypatch.setattr(processes, "_started", hidden)
    assert seen(me) is False
    monkeypatch.setattr(processes.os, "kill", not_ours)
    assert seen(me) is None


def test_a_name_with_brackets_and_blanks_is_read(tmp_path: Path) -> None:
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


def test_without_proc_a_process_is_known_by_the_time_of_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
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
        # There its process number may be that of another process, or of none.
        there = {**storage.read_json("attempts/00001.json"), **other, "pid": 2**22 + 1}
        storage.write_json("attempts/00001.json", there)
        with pytest.raises(InputError, match="in use by attempt 1"):
            claim(storage)
    (tmp_path / "attempts/00001.ended.json").unlink()
    assert claim(storage) == 2, "it beats no more"


def test_an_observer_that_was_stopped_has_not_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time it was suspended is no time without a beat."""
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


def test_an_owner_that_was_suspended_and_overtaken_writes_no_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "interrupt", lambda error: None)
    storage = Storage.at(str(tmp_path))
    attempt = claim(storage)
    storage.write_json("attempts/00002.json", {"token": "of the other"})
    attempts._beat(storage, attempt, threading.Event(), list)
    assert not storage.exists("attempts/00001.beat.json")


def test_an_error_in_what_is_told_ends_no_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without beats another machine would take a living owner for dead."""
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
