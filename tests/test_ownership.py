"""One driver works on a run at a time: a living one is not disturbed, a dead one is taken over, an old one stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tapir_ray import ownership
from tapir_ray.errors import InputError, StageError
from tapir_ray.llm.watch import PROCESSES, end_orphans, identity, is_alive
from tapir_ray.ownership import check_owner, claim, owned
from tapir_ray.storage import Storage

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_second_start_is_refused_while_the_first_is_alive(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    with owned(storage) as attempt:
        assert attempt == 1
        with pytest.raises(InputError, match=r"attempt 1: process \d+ of .* on .*--run-dir"):
            claim(storage)
    assert claim(storage) == 2


def test_a_dead_owner_is_taken_over_and_stops_when_it_wakes_up(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    process = subprocess.Popen(SLEEP)
    owner = {"host": ownership.socket.gethostname(), "user": "u", "token": "t", "time": "then", **identity(process.pid)}
    storage.write_json("attempts/00001.json", owner)
    with pytest.raises(InputError, match="attempt 1"):
        claim(storage)
    process.kill()
    process.wait()
    assert claim(storage) == 2
    check_owner(storage, 2)
    with pytest.raises(StageError, match="attempt 1 of this run was overtaken by attempt 2"):
        check_owner(storage, 1)


def test_a_process_number_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    process = subprocess.Popen(SLEEP)
    assert is_alive(identity(process.pid))
    assert not is_alive({"pid": process.pid, "started": identity(process.pid)["started"] - 100})
    process.kill()
    process.wait()


def test_an_owner_on_another_machine_is_alive_while_it_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "BEAT_S", 0.2)
    monkeypatch.setattr(ownership, "PATIENCE_S", 0.6)
    storage = Storage.at(str(tmp_path))
    with owned(storage):
        elsewhere = {**storage.read_json("attempts/00001.json"), "host": "elsewhere"}
        storage.write_json("attempts/00001.json", elsewhere)
        with pytest.raises(InputError, match="elsewhere"):
            claim(storage)
    storage.fs.delete_file(storage.path("attempts/00001.ended.json"))
    assert claim(storage) == 2, "it beats no more"


def test_orphans_of_this_run_are_ended_and_nothing_else(tmp_path: Path) -> None:
    orphan, other = subprocess.Popen(SLEEP), subprocess.Popen(SLEEP)
    host = ownership.socket.gethostname()
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


def test_a_watched_process_dies_with_its_parent_and_is_recorded(tmp_path: Path) -> None:
    child = "from tapir_ray.llm.watch import watch_parent; import time; watch_parent(); time.sleep(60)"
    code = (
        "import os, subprocess, sys, time\n"
        f"os.environ['TAPIR_ENGINE_PROCESSES'] = {str(tmp_path)!r}\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    (record,) = tmp_path.glob("*.json")
    entry = json.loads(record.read_text())
    assert is_alive(entry)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while is_alive(entry) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(entry)


def test_a_process_whose_parent_died_before_it_could_watch_ends_too(tmp_path: Path) -> None:
    script = tmp_path / "spawner.py"
    script.write_text(
        "import multiprocessing, os, pathlib, sys, time\n"
        "def child():\n"
        "    from tapir_ray.llm.watch import watch_parent\n"
        "    pathlib.Path(sys.argv[1], 'child').write_text(str(os.getpid()))\n"
        "    while not pathlib.Path(sys.argv[1], 'watch').exists(): time.sleep(0.05)\n"
        "    watch_parent()\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.get_context('spawn').Process(target=child).start()\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, PROCESSES: str(tmp_path / "processes")}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    deadline = time.monotonic() + 30
    while not (tmp_path / "child").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.2)
    child = identity(int((tmp_path / "child").read_text()))
    parent.kill()
    parent.wait()
    time.sleep(1)
    assert is_alive(child)
    (tmp_path / "watch").touch()
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(child)
