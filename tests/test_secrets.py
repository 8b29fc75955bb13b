"""Keys appear in nothing that a run leaves behind: files, output, Ray's logs, errors."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_ray.simulator import Options, running, write_seed
from tests.runs import IN_FLIGHT, Driver, write_config

KEY = "sk-planted-5f1d2c7e9b"
pytestmark = pytest.mark.restart


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary folder for Ray, whose socket paths must be short."""
    folder = Path(tempfile.mkdtemp(prefix="tapir-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def holders(folder: Path) -> list[str]:
    """Returns the files that contain the key or an Authorization header."""
    found = []
    for file in folder.rglob("*"):
        try:
            content = file.read_bytes() if file.is_file() else b""
        except OSError:
            continue  # The log was rotated at this moment.
        if KEY.encode() in content or b"Bearer " in content:
            found.append(str(file))
    return found


@pytest.mark.timeout(900)
def test_a_planted_key_is_in_no_file_and_no_log(tmp_path: Path, short_folder: Path) -> None:
    options = Options(scenario="tasks", seed=0, latency_s=0.05, error_rate=0.1, log=str(tmp_path / "log.jsonl"))
    with running(options) as url:
        endpoint = {"base_url": url, "api_key_env": "TAPIR_PLANTED", "limits": {"in_flight": IN_FLIGHT}}
        student = {"engine": "openai", "endpoint": {**endpoint, "model": "simulated-student"}}
        teacher = {**endpoint, "model": "simulated-teacher", "sampling": {"max_tokens": 256}, "timeout_s": 5.0}
        seed = {"path": str(tmp_path / "seed.jsonl")}
        config = write_config(
            tmp_path, student, simulator=None, seed_data=seed, teacher=teacher, max_error_rate=0.5
        )  # fmt: skip
        write_seed(seed["path"], 400, 0)
        driver = Driver(config, tmp_path / "run", TAPIR_PLANTED=KEY, TMPDIR=str(short_folder), TAPIR_WORKER_LOGS="1")
        process = driver.start()
        logs: list[str] = []
        while process.poll() is None:
            time.sleep(1.0)
            logs += holders(short_folder)
        assert process.returncode == 0, driver.printed()
    assert holders(tmp_path) == []
    # The endpoint has ended: every request fails, and its error is printed.
    shutil.rmtree(tmp_path / "run")
    assert driver.start().wait(300) == 2
    assert "teacher" in driver.printed()
    assert logs == [] and holders(tmp_path) == []


def test_a_key_in_the_text_of_a_file_is_found(tmp_path: Path) -> None:
    """Shows that `holders` can fail the test above."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_text(f"Authorization: {KEY}")
    assert holders(tmp_path) == [str(tmp_path / "a/b")]
