"""A run killed again and again ends like an uninterrupted one: the same rows, nothing paid for twice.

The command runs as a user runs it. It is killed by SIGKILL at random moments of every stage and started again.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tapir_ray.llm.engine.watchdog import identity, is_alive
from tests.runs import IN_FLIGHT, SIMULATED, TABLES, Driver, assert_ended, kill, title, write_config

pytestmark = pytest.mark.restart

MOMENTS = [
    "seed/split",
    "ray_train",
    "ray_train",
    "seed/instructions",
    "rounds/01/scored",
    "rounds/01/scored",
    "rounds/01/expanded",
    "rounds/01/generated",
    "ray_train",
    "evaluation/holdout",
]
"""Folders of a run. A kill follows a new file there (a block, a checkpoint) within a second."""
KEPT = {"resources": {"cpus": 4, "transform_cpus": 0.4, "rows_per_block": 16, "student": {"keep": True}}}
"""Section of a run whose engine stays between tables."""


@pytest.mark.timeout(1800)
def test_a_run_killed_in_every_stage_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    train = {"sequence_length": 192, "learning_rate": 3e-3, "global_batch_size": 4, "micro_batch_size": 2}
    train |= {"precision": "float32", "checkpoint_steps": 2}
    alone, killed = (
        Driver(write_config(tmp_path / name, SIMULATED, train=train), tmp_path / name / "run")
        for name in ("alone", "killed")
    )
    alone.finish()
    moments, kills = random.Random(0), []
    for folder in MOMENTS:
        before = killed.files(folder)
        process = killed.start()
        while killed.files(folder) <= before and process.poll() is None:
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 0.3 if folder == "ray_train" else 1))
        assert kill(process), f"the run ended before it was in {folder}: {killed.printed()}"
        kills.append(time.time())
    killed.finish()

    for table in TABLES:
        assert killed.keys(table) == alone.keys(table), table
        assert len(set(killed.keys(table))) == len(killed.keys(table)), table
    for checkpoint in ("checkpoints/00", "checkpoints/01"):
        done, again = (driver.run.read_json(f"{checkpoint}/_manifest.json")["extra"] for driver in (alone, killed))
        assert (again["steps"], again["sequences"]) == (done["steps"], done["sequences"])
        assert again["last_loss"] == pytest.approx(done["last_loss"], rel=1e-3)
    once, again = alone.requests(), killed.requests()
    assert set(once) == set(again) and sum(once.values()) == len(once)
    repeated = killed.repeated(kills)
    print(f"{len(kills)} kills, {len(once)} requests, repeated after each: {repeated}")
    assert max(repeated) <= 2 * IN_FLIGHT, "at most the requests of each role in flight at a kill"


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("resources", [{}, KEPT], ids=["of a table", "kept"])
def test_no_engine_survives_a_kill(tmp_path: Path, resources: dict[str, Any]) -> None:
    driver = Driver(write_config(tmp_path, **resources), tmp_path / "run")

    def engines() -> list[bool]:
        return [is_alive(json.loads(file.read_text())) for file in (tmp_path / "run/processes").glob("*.json")]

    for table in ("rounds/01/scored", "evaluation/holdout"):
        process = driver.start()
        driver.wait_for(table, process)
        deadline = time.monotonic() + 300
        # The engine is up once its processes are recorded.
        while not any(engines()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3.0)
        assert kill(process), driver.printed()
        deadline = time.monotonic() + 10
        # The processes that the engine was just starting.
        while any(engines()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert engines() and not any(engines())
    driver.finish()
    driver.check_keys()


def kill_engines(process: subprocess.Popen[bytes], starting: bool | None) -> int:
    """Kills the engine's process as it starts, once it has started, or (None) at once; returns how many were killed."""
    killed = 0
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                of_start = "__init__" in title(child.parent())
                if "EngineCore" in title(child) and starting in (None, of_start):
                    child.kill()
                    killed += 1
        time.sleep(0.2)
    return killed


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("starting", "sentence", "resources"),
    [
        (True, "could not be started: ", {}),
        (False, "no row was finished", {}),
        # The actor of a kept engine has no title of its own while its engine starts.
        (None, "could not be started: ", KEPT),
    ],
)
def test_an_engine_that_dies_repeatedly_ends_the_run(
    tmp_path: Path, starting: bool | None, sentence: str, resources: dict[str, Any]
) -> None:
    """The last start reports the cause within minutes, with the log."""
    simulator = {"scenario": "tasks", "seed_rows": 150, "latency_s": 2.0, "log": str(tmp_path / "log.jsonl")}
    driver = Driver(write_config(tmp_path, simulator=simulator, **resources), tmp_path / "run")
    process = driver.start()
    assert driver.wait_for("rounds/01/scored", process), driver.printed()
    began = time.monotonic()
    killed = kill_engines(process, starting)
    assert process.returncode == 1 and time.monotonic() - began < 300, driver.printed()
    assert killed >= (3 if starting is False else 1)
    before, _, log = driver.output.read_text().rpartition("the end of its log:")
    assert sentence in before and "Engine" in log and "Error" in log, driver.printed()


@pytest.mark.timeout(900)
def test_a_killed_run_stays_within_its_budget_and_ends_with_a_larger_one(tmp_path: Path) -> None:
    """The next attempt counts the usage of the killed ones; unknown usage counts at its worst case."""
    most = 60_000
    config = write_config(tmp_path, SIMULATED, budget={"max_tokens": most})
    driver = Driver(config, tmp_path / "run")
    for table in ("seed/instructions", "rounds/01/scored"):
        process = driver.start()
        assert driver.wait_for(table, process), driver.printed()
        time.sleep(1.5)
        assert kill(process)
    assert driver.start().wait(300) == 3, driver.printed()
    assert "the budget is used up" in driver.printed()
    assert most / 2 < driver.tokens() <= most
    write_config(tmp_path, SIMULATED, budget={"max_tokens": 10 * most})
    driver.finish()
    driver.check_keys()


@pytest.mark.timeout(900)
def test_a_run_continues_after_its_whole_node_was_killed(tmp_path: Path) -> None:
    """All Ray processes die at once. The driver reports it and ends, and the next start continues."""
    driver = Driver(write_config(tmp_path, SIMULATED), tmp_path / "run")
    process = driver.start()
    assert driver.wait_for("rounds/01/scored", process), driver.printed()
    time.sleep(1.0)
    children = psutil.Process(process.pid).children(recursive=True)
    node = [child for child in children if "/ray/" in title(child) or title(child).startswith("ray::")]
    family = [identity(child.pid) for child in children]
    assert len(node) > 5
    for child in node:
        child.kill()
    assert process.wait(180) == 1, driver.printed()
    assert_ended(family)
    driver.finish()
    driver.check_keys()


@pytest.mark.timeout(900)
def test_a_signal_ends_cleanly_and_a_second_start_is_refused(tmp_path: Path) -> None:
    driver = Driver(write_config(tmp_path, SIMULATED), tmp_path / "run")
    process = driver.start()
    assert driver.wait_for("seed/instructions", process), driver.printed()
    second = tmp_path / "second.txt"
    assert driver.start(second).wait(60) == 2
    assert f"process {process.pid} of" in second.read_text()
    process.terminate()
    assert process.wait(60) == 3, driver.printed()
    assert "stopped by SIGTERM; what is finished is kept" in driver.printed()
    # During a training, which waits for Ray in another way than a table does.
    process, before = driver.start(), driver.files("ray_train")
    while driver.files("ray_train") <= before and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(20) == 3, driver.printed()
    assert "stopped by SIGTERM; what is finished is kept" in driver.printed()
    driver.finish()


@pytest.mark.timeout(900)
def test_killed_workers_and_actors_are_replaced_during_the_run(tmp_path: Path) -> None:
    driver = Driver(write_config(tmp_path, SIMULATED), tmp_path / "run")
    process = driver.start()
    wanted, killed = ("Asker", "Curriculum", "UsageActor"), set()
    assert driver.wait_for("rounds/01/scored", process), driver.printed()
    deadline = time.monotonic() + 300
    while process.poll() is None and killed != set(wanted) and time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children(recursive=True):
            for name in wanted:
                if name in title(child) and name not in killed:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                        killed.add(name)
        time.sleep(0.2)
    assert process.wait(300) == 0, driver.printed()
    assert killed == set(wanted)
    driver.check_keys()
