"""`cluster/tapir-job`, run with a stand-in for Python that ends with a given exit status."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from subprocess import list2cmdline

import pytest

from tapir_ray.errors import InputError, StageError, Stopped
from tests.deploy.files import CLUSTER, documents

STAND_IN = """#!/bin/sh
printf '%s\\n' "$@" > "$FOLDER/arguments"
trap 'exit "$STATUS"' TERM
touch "$FOLDER/started"
while [ -n "$WAITS" ]; do sleep 0.05; done
exit "$STATUS"
"""


def environment(folder: Path, status: int, waits: str = "") -> dict[str, str]:
    """Returns variables with the wrapper and a stand-in `python` on the path; it ends with `status`, after SIGTERM
    if `waits`."""
    python = folder / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    path = f"{folder}:{CLUSTER}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "FOLDER": str(folder), "STATUS": str(status), "WAITS": waits}


@pytest.mark.parametrize(
    ("status", "expected"),
    [(0, 0), (StageError.exit_status, 1), (InputError.exit_status, 2), (Stopped.exit_status, 0), (137, 137)],
)
def test_only_a_stop_by_the_budget_counts_as_complete(tmp_path: Path, status: int, expected: int) -> None:
    done = subprocess.run(
        ["tapir-job", "run", "a.yaml"], env=environment(tmp_path, status), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == expected
    assert ("budget is used up" in done.stderr) == (status == Stopped.exit_status)


@pytest.mark.parametrize("whole_group", [True, False])
def test_a_stop_by_a_signal_is_no_completed_job(tmp_path: Path, whole_group: bool) -> None:
    """Ray stops a job by a signal to its shell and all its children.

    If that counted as complete, the run would never be continued. A shell that ended at once would leave the run no
    time to stop.
    """
    job = subprocess.Popen(
        ["tapir-job", "run", "a.yaml"],
        env=environment(tmp_path, Stopped.exit_status, waits="yes"),
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline, "the stand-in did not start"
        time.sleep(0.02)
    if whole_group:
        os.killpg(job.pid, signal.SIGTERM)
    else:
        os.kill(job.pid, signal.SIGTERM)
        time.sleep(0.2)
        assert job.poll() is None
        os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(timeout=20) == Stopped.exit_status


def test_the_entrypoint_reaches_tapir_unchanged(tmp_path: Path) -> None:
    """KubeRay puts it after `ray job submit --` in a shell; Ray joins the words for a second shell."""
    (job,) = [document for document in documents("kuberay/rayjob.yaml") if document["kind"] == "RayJob"]
    entrypoint = job["spec"]["entrypoint"]
    submitted = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {entrypoint} ;"], capture_output=True, text=True, timeout=30, check=True
    ).stdout.splitlines()
    env = environment(tmp_path, 0)
    subprocess.run(list2cmdline(submitted), shell=True, env=env, timeout=30, check=True)
    expected = ["-m", "tapir_ray.cli", *shlex.split(entrypoint)[1:]]
    assert (tmp_path / "arguments").read_text().splitlines() == expected
