"""Attempts: one driver at a time. A living one is not disturbed, a dead one is taken over, an overtaken one stops."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tapir_ray.cluster.interrupt import interruptible
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError, Reached, StageError, Stopped
from tapir_ray.llm.engine.watchdog import identity
from tapir_ray.run import attempts
from tapir_ray.run.attempts import check_owner, claim, owned, owner

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_second_start_is_refused_while_the_first_is_alive(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    with owned(storage) as attempt:
        assert attempt == 1
        with pytest.raises(InputError, match=r"attempt 1: process \d+ of .* on .*--run-dir"):
            claim(storage)
    assert claim(storage) == 2


def test_a_dead_owner_is_taken_over_and_stops_if_it_wakes_up(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    process = subprocess.Popen(SLEEP)
    owner = {"host": attempts.socket.gethostname(), "user": "u", "token": "t", "time": "then", **identity(process.pid)}
    storage.write_json("attempts/00001.json", owner)
    with pytest.raises(InputError, match="attempt 1"):
        claim(storage)
    process.kill()
    process.wait()
    assert claim(storage) == 2
    check_owner(storage, 2)
    with pytest.raises(StageError, match="attempt 1 of this run was overtaken by attempt 2"):
        check_owner(storage, 1)


def test_of_two_simultaneous_starts_one_owns_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage.at(str(tmp_path))
    monkeypatch.setattr(attempts, "latest", lambda _: 0)  # Both have looked before either has written.
    assert claim(storage) == 1
    with pytest.raises(InputError, match="at the same moment"):
        claim(storage)
    assert storage.children("attempts") == ["00001.json"]


def test_a_start_in_between_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two starts wait until the owner, on another machine, counts as dead. The first takes over."""
    storage = Storage.at(str(tmp_path))
    storage.write_json("attempts/00001.json", {})

    def looked_at(_: Storage, attempt: int) -> None:
        storage.write_json("attempts/00002.json", {"attempt": "of the other", "token": ""})

    monkeypatch.setattr(attempts, "_alive", looked_at)
    with pytest.raises(InputError, match="at the same moment"):
        claim(storage)
    assert storage.children("attempts") == ["00001.json", "00002.json"]


def test_an_overtaken_driver_is_stopped_by_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BEAT_S", 0.05)
    storage = Storage.at(str(tmp_path))
    overtaken = pytest.raises(StageError, match="attempt 1 of this run was overtaken by attempt 2")
    with overtaken, interruptible(), owned(storage):
        storage.write_json("attempts/00002.json", {})
        time.sleep(10)


def test_an_owner_on_another_machine_is_alive_while_its_heartbeats_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "BEAT_S", 0.2)
    monkeypatch.setattr(attempts, "PATIENCE_S", 0.6)
    storage = Storage.at(str(tmp_path))
    with owned(storage):
        elsewhere = {**storage.read_json("attempts/00001.json"), "host": "elsewhere"}
        storage.write_json("attempts/00001.json", elsewhere)
        with pytest.raises(InputError, match="elsewhere"):
            claim(storage)
    storage.fs.delete_file(storage.path("attempts/00001.ended.json"))
    assert claim(storage) == 2, "its heartbeats have stopped"


@pytest.mark.parametrize(
    ("error", "exit_status", "reason"),
    [
        (None, 0, None),
        (Reached("stopped after score, as asked"), 0, "stopped after score, as asked"),
        (Stopped("the budget is used up"), 3, "the budget is used up"),
        (KeyboardInterrupt(), 3, "interrupted"),
        (StageError("t: 5 rows went in\nFailed to apply UDF transform at x"), 1, "t: 5 rows went in"),
        (ValueError("sk-123"), 1, "ValueError, an error that is not tapir's own: see the traceback in its output"),
    ],
)
def test_the_end_of_an_attempt_is_stored_with_stage_and_reason(
    tmp_path: Path, error: BaseException | None, exit_status: int, reason: str | None
) -> None:
    storage = Storage.at(str(tmp_path))
    under_way = [{"label": "round 1 score", "rows": 64}]
    assert owner(storage) is None
    with contextlib.suppress(BaseException), owned(storage, lambda: under_way):
        alive = owner(storage)
        assert alive is not None and alive.alive and alive.ended is None
        under_way[0]["rows"] = 70
        if error is not None:
            raise error
    last = owner(storage)
    assert last is not None and not last.alive and last.ended is not None
    assert (last.attempt, last.exit_status, last.reason) == (1, exit_status, reason)
    assert last.stages == [{"label": "round 1 score", "rows": 70}]


def test_a_killed_owner_leaves_its_last_heartbeat(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    script = (
        "import time\nfrom tapir_ray.run.attempts import owned\nfrom tapir_ray.data.storage import Storage\n"
        f"with owned(Storage.at({str(tmp_path)!r}), lambda: [{{'label': 'classify'}}]): time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, "--run-dir", "a b"])
    try:
        deadline = time.monotonic() + 60
        while not storage.exists("attempts/00001.beat.json") and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    last = owner(storage)
    assert last is not None and not last.alive
    assert (last.ended, last.exit_status, last.reason, last.pid) == (None, None, None, process.pid)
    assert last.stages == [{"label": "classify"}] and last.heartbeat is not None
    assert last.command == "-c --run-dir 'a b'"
