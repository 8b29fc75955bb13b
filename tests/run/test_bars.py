"""Bars of the stages on a terminal, read as a terminal shows them."""

from __future__ import annotations

import os
import pty
import re
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tapir_ray.run.progress import Progress

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(monkeypatch: pytest.MonkeyPatch, work: Callable[[Progress], None]) -> str:
    """Returns what a terminal of 140 columns gets, without the codes that move its cursor."""
    master, slave = pty.openpty()
    parts: list[bytes] = []

    def read() -> None:
        while True:
            try:
                parts.append(os.read(master, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(slave, "w", buffering=1) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        work(Progress(lambda: {}))
        terminal.flush()
    time.sleep(0.1)
    os.close(master)
    reader.join(5)
    return CODES.sub("", b"".join(parts).decode())


def test_a_stage_has_a_bar_with_the_time_left_and_then_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(progress: Progress) -> None:
        with progress.stage("round 1 score", "scored", 100):
            for _ in range(8):
                progress.count("scored", 10, 1)
                time.sleep(0.2)
            progress.say("a message of the run")

    text = shown(monkeypatch, work)
    assert "━" in text and re.search(r"round 1 score +━.* \d\d:\d\d +\d0/100 rows", text), text
    assert "a message of the run" in text
    last = text.rstrip().splitlines()[-1]
    assert "round 1 score" in last and "80/100 rows" in last and "done in" in last and "━" not in last


def test_stages_at_once_have_a_bar_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(progress: Progress) -> None:
        with progress.stage("initial SFT") as facts, progress.stage("train the classifier"):
            facts |= {"step": "3/12", "loss": "1.23"}
            time.sleep(1.3)

    text = shown(monkeypatch, work)
    assert re.search(r"initial SFT +━.*step 3/12  loss 1.23", text) and re.search(r"train the classifier +━", text)


def test_a_task_named_like_markup_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(progress: Progress) -> None:
        with progress.stage("judge [red] :bug:"):
            time.sleep(0.1)
        progress.say("[/] and [bold]")

    text = shown(monkeypatch, work)
    assert "judge [red] :bug:" in text and "[/] and [bold]" in text
