"""A run whose teacher does not answer names the stage and the waiting operator, and gives up in the end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tapir_ray.methods import layout_of
from tapir_ray.report.status import status
from tests.runs import SIMULATED, Driver, write_config

pytestmark = [pytest.mark.restart, pytest.mark.timeout(700)]


def test_a_stall_names_the_stage_and_the_waiting_operator(tmp_path: Path) -> None:
    resources = {
        "cpus": 4,
        "transform_cpus": 0.4,
        "rows_per_block": 16,
        "stall_after_s": 25,
        "no_progress_timeout_s": 90,
    }
    simulator = {"scenario": "tasks", "seed_rows": 100, "latency_s": 3600.0}
    config = write_config(tmp_path, SIMULATED, simulator=simulator, resources=resources)
    driver = Driver(config, tmp_path / "run")
    process = driver.start()
    assert driver.wait_for("seed/instructions", process), driver.printed()
    deadline = time.monotonic() + 120
    while "classify: no row for" not in driver.printed():
        assert process.poll() is None and time.monotonic() < deadline, driver.printed()
        time.sleep(0.5)
    (line,) = [line for line in driver.printed().splitlines() if line.startswith("classify: no row for")]
    assert "(resources.stall_after_s): " in line and "Asker" in line
    assert " waits: " in line and " 0 tasks run" not in line
    found = status(driver.run.uri, layout_of)
    assert found["status"] == "running" and found["last_event"]["event"] == "stalled"
    assert "Asker" in found["last_event"]["waits"] and found["last_event"]["stage"] == "classify"

    assert process.wait(180) == 1, driver.printed()
    assert "seed/instructions: no progress for resources.no_progress_timeout_s" in driver.printed()
    found = status(driver.run.uri, layout_of)
    assert found["status"] == "failed" and "Asker" in found["reason"]
    assert found["stages"][0]["label"] == "classify"
