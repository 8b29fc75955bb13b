"""Engines that die again and again stop the stage; engines that make progress do not."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tapir_ray.cluster.interrupt import interrupt, interruptible
from tapir_ray.data.storage import Storage
from tapir_ray.errors import StageError
from tapir_ray.llm.engine import health
from tapir_ray.llm.engine.health import LOG_LINES, STARTS, last_lines, stopped_if_dying, tail


def start(folder: Path, number: int, log: Path, worker: bool = True) -> None:
    entry = {"host": socket.gethostname(), "pid": number, "started": 0.0, "node": None, "log": str(log)}
    Storage.at(str(folder)).write_json(f"host-{number:03d}.json", {**entry, "worker": worker})


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(health, "CHECK_S", 0.02)
    (tmp_path / "processes").mkdir()
    lines = "".join(f"line {number}\n\n" for number in range(50))
    stack = "/usr/lib/libc.so.6(+0x2724a) [0x7fc21a04524a]\n[vm E 1] *** SIGABRT received at time=1\nmodules\n"
    (tmp_path / "log").write_text(lines + stack)
    return tmp_path / "log"


def test_restarts_without_a_row_stop_the_stage_with_the_log(tmp_path: Path, log: Path) -> None:
    folder = tmp_path / "processes"
    start(folder, 999, log)  # Of an earlier attempt.
    dying = pytest.raises(StageError, match=r"started 7 times and no row was finished(.|\n)*line 49$")
    with dying, interruptible(), stopped_if_dying(str(folder), 2, lambda: 0):
        for number in range(2 * STARTS + 1):
            start(folder, number, log)
            start(folder, 100 + number, log, worker=False)
        time.sleep(20)


def test_restarts_with_rows_between_them_continue(tmp_path: Path, log: Path) -> None:
    rows = 0
    with interruptible(), stopped_if_dying(str(tmp_path / "processes"), 1, lambda: rows):
        for number in range(4 * STARTS):
            start(tmp_path / "processes", number, log)
            time.sleep(0.06)
            rows += number % 2
        time.sleep(0.1)


def test_the_last_readable_log_is_shown(tmp_path: Path, log: Path) -> None:
    there = {"host": socket.gethostname(), "log": str(log)}
    assert tail(str(log)) == [f"line {number}" for number in range(50 - LOG_LINES, 50)]
    assert last_lines([there, {**there, "log": str(tmp_path / "none")}]).endswith("line 49")
    assert last_lines([]) == "(there is none)"


def test_code_outside_interruptible_is_not_interrupted() -> None:
    interrupt(StageError("too late"))
    with interruptible():
        time.sleep(0.01)


def test_the_cause_in_the_output_is_shown_first_also_in_rotated_logs(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/worker.err").write_text("Engine core initialization failed. See root cause above.\n")
    line = "(Worker pid=7) ERROR 11-22 08:17:32 [multiproc_executor.py:944] "
    shape = "RuntimeError: start (0) + length (96) exceeds dimension size (64)."
    (tmp_path / "old/worker.out").write_text(
        f"{line}Traceback\n" + f"{line}{shape}\n" * 2 + f"{line}Exception: later\n"
    )
    shown = [shape, "Exception: later", "Engine core initialization failed. See root cause above."]
    assert tail(str(tmp_path / "worker.err")) == shown
