"""`tapir submit` as a user calls it, through a real head on loopback with token authentication."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.run.attempts import BEAT_S
from tests.heads import Head
from tests.runs import IN_FLIGHT, ROOT, SIMULATED, Driver, write_config
from tests.test_secrets import KEY, holders

pytestmark = [pytest.mark.restart, pytest.mark.timeout(900)]

SHOW = """
import hashlib, os
import ray
from tapir_ray.cluster.jobs.env_vars import load

def seen():
    values = {name: os.environ.get(name, "") for name in ("TAPIR_PLANTED", "TAPIR_OTHER")}
    return [hashlib.sha256(value.encode()).hexdigest() if value else "nothing" for value in values.values()]

load()
ray.init()
print("driver", *seen())
print("worker", *ray.get(ray.remote(num_cpus=0.1)(seen).remote()))
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """One head for all tests of this file."""
    head = Head(cpus=4)
    yield head
    head.stop()


class Submitter:
    """A user with a working tree who submits one run to a head."""

    def __init__(self, folder: Path, head: Head, latency_s: float) -> None:
        self.tree = folder / "tree"
        for name in ("tapir_ray", "jobs"):
            shutil.copytree(ROOT / name, self.tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        simulator = {"scenario": "tasks", "seed_rows": 400, "latency_s": latency_s}
        simulator |= {"log": str(self.tree / "log.jsonl")}
        config = write_config(self.tree, SIMULATED, simulator=simulator)
        (self.tree / ".rayignore").write_text("*.jsonl\n*.txt\n")
        self.driver = Driver(config, folder / "run")  # Only its readers are used.
        self.head = head

    def start(
        self, *options: str, output: str = "output", job: str = "distill", **variables: str
    ) -> subprocess.Popen[bytes]:
        """Starts `tapir submit`; its output is appended to a file."""
        command = [
            sys.executable, "-m", "tapir_ray.cli", "submit", "config.yaml", "--job", job, "--address", self.head.url,
            "--run-dir", self.driver.run.uri, *options,
        ]  # fmt: skip
        with (self.tree / f"{output}.txt").open("ab") as stream:
            return subprocess.Popen(
                command,
                stdout=stream,
                stderr=stream,
                cwd=self.tree,
                env={**self.head.environment, **variables},
                # A shell's background job ignores SIGINT; Ctrl-C must reach this one.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def start_status(self, output: str) -> subprocess.Popen[bytes]:
        """Starts `tapir status --address --json`; its output is written to a file."""
        command = [
            sys.executable, "-m", "tapir_ray.cli", "status", self.driver.run.uri, "--address", self.head.url, "--json",
        ]  # fmt: skip
        with (self.tree / f"{output}.txt").open("wb") as stream:
            return subprocess.Popen(command, stdout=stream, stderr=stream, cwd=self.tree, env=self.head.environment)

    def status(self, output: str) -> dict[str, Any]:
        """Returns the run's status as the head reports it."""
        assert self.start_status(output).wait(120) == 0, self.printed(output)
        return json.loads(self.printed(output).splitlines()[-1])

    def submit(self, *options: str, **variables: str) -> int:
        """Returns the exit status of `tapir submit`."""
        return self.start(*options, **variables).wait(400)

    def printed(self, output: str = "output") -> str:
        """Returns all output so far."""
        return (self.tree / f"{output}.txt").read_text()

    def wait_for(self, words: str, process: subprocess.Popen[bytes], output: str) -> None:
        """Waits until the words are printed."""
        deadline = time.monotonic() + 120
        while words not in self.printed(output):
            assert process.poll() is None and time.monotonic() < deadline, self.printed(output)
            time.sleep(0.2)


def test_a_job_succeeds_and_its_log_is_followed(tmp_path: Path, head: Head) -> None:
    user = Submitter(tmp_path, head, latency_s=0.02)
    assert user.submit("--", "--until", "classify") == 0, user.printed()
    assert "stopped after classify, as asked" in user.printed()
    assert "-1 SUCCEEDED" in user.printed()
    keys = user.driver.keys("seed/instructions")
    assert keys and len(set(keys)) == len(keys)


def test_a_failed_job_gives_its_exit_status_and_the_run_continues(tmp_path: Path, head: Head) -> None:
    user = Submitter(tmp_path, head, latency_s=0.02)
    assert user.submit("--", "--until", "nope") == 2, user.printed()
    assert "--until nope: no such stage" in user.printed() and "-1 FAILED" in user.printed()
    assert user.submit("--set", "budget.max_tokens=10000", "--", "--until", "classify") == 3, user.printed()
    assert "the budget is used up" in user.printed() and "-2 FAILED" in user.printed()
    assert user.driver.tokens() <= 10000
    assert user.submit("--set", "budget.max_tokens=10000000", "--", "--until", "classify") == 0, user.printed()
    assert "-3 SUCCEEDED" in user.printed()
    requests = user.driver.requests()
    assert sum(requests.values()) == len(requests), "answered requests are not asked again"


def test_a_stopped_job_ends_cleanly_and_continues(tmp_path: Path, head: Head) -> None:
    user = Submitter(tmp_path, head, latency_s=1.0)
    following = user.start("--", "--until", "classify")
    assert user.driver.wait_for("seed/instructions", following), user.printed()
    time.sleep(3.0)
    assert user.start("--stop", output="stop").wait(150) == 0, user.printed("stop")
    assert "-1 STOPPED" in user.printed("stop")
    assert following.wait(30) == 3, user.printed()
    assert "stopped by SIGTERM; what is finished is kept" in user.printed()
    assert user.driver.run.exists("attempts/00001.ended.json")
    assert user.start("--stop", output="again").wait(60) == 2
    assert "there is nothing to stop" in user.printed("again")

    assert user.submit("--", "--until", "classify") == 0, user.printed()
    assert "-2 SUCCEEDED" in user.printed()
    keys = user.driver.keys("seed/instructions")
    assert keys and len(set(keys)) == len(keys)
    requests = user.driver.requests()
    assert sum(requests.values()) - len(requests) <= 2 * IN_FLIGHT


def test_a_second_submit_follows_the_running_job_and_detaches(tmp_path: Path, head: Head) -> None:
    user = Submitter(tmp_path, head, latency_s=1.0)
    first = user.start("--", "--until", "classify")
    assert user.driver.wait_for("seed/instructions", first), user.printed()
    second = user.start("--", "--until", "classify", output="second")
    user.wait_for("Running entrypoint for job", second, "second")  # The second log starts at the beginning.
    second.send_signal(signal.SIGINT)
    assert second.wait(30) == 3
    assert "-1 already works on this run" in user.printed("second")
    assert "the same command attaches again, and with --stop it ends the job" in user.printed("second")
    assert user.start(output="other", job="score").wait(60) == 2
    assert "as --job distill, not score" in user.printed("other")

    third = user.start(output="third")
    assert (first.wait(300), third.wait(60)) == (0, 0), user.printed()
    for output in ("output", "third"):
        assert user.printed(output).count("stopped after classify, as asked") == 1
        assert "-1 SUCCEEDED" in user.printed(output)
    requests = user.driver.requests()
    assert sum(requests.values()) == len(requests)


def test_status_is_read_through_the_head_during_and_after_the_run(tmp_path: Path, head: Head) -> None:
    user = Submitter(tmp_path, head, latency_s=2.0)
    assert user.start_status("early").wait(120) == 2
    assert "on the cluster: " in user.printed("early") and "holds no run" in user.printed("early")
    following = user.start("--", "--until", "classify")
    assert user.driver.wait_for("seed/instructions", following), user.printed()
    time.sleep(2 * BEAT_S)
    found = user.status("running")
    assert found["status"] == "running" and list(found["jobs"].values()) == ["RUNNING"]
    (stage,) = found["stages"]
    assert (stage["label"], stage["stage"], stage["table"]) == ("classify", "classify", "seed/instructions")
    assert 0 <= stage["rows"] < stage["expected"]
    assert user.start("--stop", output="stop").wait(150) == 0, user.printed("stop")
    found = user.status("stopped")
    assert found["status"] == "stopped" and list(found["jobs"].values()) == ["STOPPED"]
    assert found["reason"].startswith("stopped by SIGTERM") and found["stages"][0]["label"] == "classify"
    assert f"--run-dir {user.driver.run.uri}" in found["continue"]
    assert following.wait(30) == 3


def test_named_variables_reach_the_job_and_no_log(tmp_path: Path, head: Head) -> None:
    user = Submitter(tmp_path, head, latency_s=0.0)
    (user.tree / "jobs/show.py").write_text(SHOW)
    process = user.start("--env", "TAPIR_PLANTED", job="show", TAPIR_PLANTED=KEY, TAPIR_OTHER="x")
    assert process.wait(120) == 0, user.printed()
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    for part in ("driver", "worker"):
        assert f"{part} {digest} nothing" in user.printed()
    assert list(head.logs.glob("runtime_env_agent.log")), "Ray writes a job's environment there"
    assert holders(head.logs.resolve()) == [] and KEY not in user.printed()


def test_another_token_is_refused(tmp_path: Path, head: Head) -> None:
    user = Submitter(tmp_path, head, latency_s=0.0)
    (tmp_path / "token").write_text("0" * 32)
    assert user.submit("--", "--until", "classify", RAY_AUTH_TOKEN_PATH=str(tmp_path / "token")) == 2
    assert "rejects the token, or none is set" in user.printed() and "Traceback" not in user.printed()
