"""Signals: one stops a run in order, also if it comes twice at once; a later one ends the process."""

from __future__ import annotations

import signal
import time

import pytest

from tapir_ray.cluster import session
from tapir_ray.cluster.session import stopped_by_signals
from tapir_ray.errors import Stopped


def rays_handler(number: int, _: object) -> None:
    """Ends the process with the number of the signal, as the handler that Ray installs in a driver."""
    raise SystemExit(number)


def test_a_signal_that_comes_twice_is_one_stop() -> None:
    """`timeout` signals a command and then its process group: a run ended with status 15 and without a summary."""
    at_first = signal.getsignal(signal.SIGTERM)  # Ray's, if another test of the process has started one
    with pytest.raises(Stopped, match="stopped by SIGTERM"), stopped_by_signals():
        before = signal.signal(signal.SIGTERM, rays_handler)
        try:
            with stopped_by_signals():
                try:
                    signal.raise_signal(signal.SIGTERM)
                finally:
                    signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # the inner context is left, and Ray still shuts down
    assert before is not rays_handler and signal.getsignal(signal.SIGTERM) is at_first


def test_a_second_signal_later_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SAME_SIGNAL_S", 0.05)
    signal.signal(signal.SIGTERM, rays_handler)
    try:
        with pytest.raises(SystemExit) as ended, stopped_by_signals():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                time.sleep(0.1)
                signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_the_next_run_of_a_process_can_be_stopped_again() -> None:
    for _ in range(2):
        with pytest.raises(Stopped), stopped_by_signals():
            signal.raise_signal(signal.SIGINT)
