"""A job on a head without workers, with Ray's real autoscaler: nodes are added, lost and removed, and so is the
head.

The seconds of each step are printed (`pytest -s`).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.jobs.test_submit import Submitter
from tests.heads import Head
from tests.runs import TABLES

pytestmark = [pytest.mark.restart, pytest.mark.timeout(1800)]

IDLE_S = 30.0
TWO_NODES = ["--set", "resources.train.replicas=2", "resources.train.cpus=1.5"]
"""Two training workers that do not fit on one node of two CPUs."""


@pytest.fixture
def heads() -> Iterator[Callable[[], Head]]:
    """Starts heads without CPUs whose autoscaler may add two nodes."""
    started: list[Head] = []

    def start() -> Head:
        started.append(Head(cpus=0, most=2, idle_s=IDLE_S))
        return started[-1]

    yield start
    for head in started:
        head.stop()


def seconds_until(
    what: Callable[[], bool], process: subprocess.Popen[bytes] | None, user: Submitter, patience_s: float = 600
) -> float:
    """Returns the seconds until `what` holds, while a process runs."""
    began = time.monotonic()
    while not what():
        assert process is None or process.poll() is None, user.printed()
        assert time.monotonic() - began < patience_s, user.printed()
        time.sleep(0.2)
    return time.monotonic() - began


def lose(node: psutil.Process) -> None:
    """Kills a node with all its processes."""
    for process in [node, *node.children(recursive=True)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def test_nodes_are_added_and_removed_and_a_lost_one_changes_nothing(tmp_path: Path, heads: Callable[[], Head]) -> None:
    head = heads()
    assert head.nodes() == []
    alone = Submitter(tmp_path / "alone", head, latency_s=0.05)
    submitted = alone.start(*TWO_NODES)
    first = seconds_until(lambda: len(head.nodes()) == 1, submitted, alone)
    second = seconds_until(lambda: len(head.nodes()) == 2, submitted, alone)
    ended = seconds_until(lambda: submitted.poll() is not None, None, alone)
    assert submitted.poll() == 0, alone.printed()
    idle = seconds_until(lambda: not head.nodes(), None, alone, 10 * IDLE_S)
    print(
        f"first node after {first:.1f} s, second {second:.1f} s later, end {ended:.1f} s later, none after {idle:.1f} s"
    )
    alone.driver.check_keys()

    lossy = Submitter(tmp_path / "lossy", head, latency_s=0.3)
    submitted = lossy.start(*TWO_NODES)
    assert lossy.driver.wait_for("rounds/01/scored", submitted), lossy.printed()
    seconds_until(lambda: bool(head.nodes()), submitted, lossy)
    time.sleep(3.0)
    before = head.nodes()
    lose(before[-1])
    again = seconds_until(lambda: any(node not in before for node in head.nodes()), submitted, lossy)
    assert submitted.wait(900) == 0, lossy.printed()
    print(f"another node came {again:.1f} s after one was lost")
    for table in TABLES:
        assert lossy.driver.rows(table) == alone.driver.rows(table), table


def test_a_lost_head_is_replaced_and_the_run_continues_from_storage(tmp_path: Path, heads: Callable[[], Head]) -> None:
    head = heads()
    user = Submitter(tmp_path, head, latency_s=0.3)
    submitted = user.start(*TWO_NODES)
    assert user.driver.wait_for("rounds/01/scored", submitted), user.printed()
    time.sleep(3.0)
    head.stop()
    assert submitted.wait(300) == 1, user.printed()
    assert "start the same command again once the head answers" in user.printed()
    answered = sum(user.driver.requests().values())

    began = time.monotonic()
    user.head = heads()
    assert user.start(*TWO_NODES).wait(900) == 0, user.printed()
    print(f"a new head finished the run in {time.monotonic() - began:.1f} s, {answered} requests were answered before")
    user.driver.check_keys()
    requests = user.driver.requests()
    assert set(user.driver.keys("seed/instructions")) and len(requests) > answered * 0.9
    assert sum(requests.values()) - len(requests) <= 64, (
        "requests answered before the head was lost are not asked again"
    )
