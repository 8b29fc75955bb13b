"""`tapir status RUN --address URL`: the status as a job on the cluster sees it, for storage that is not seen from here.

    found = remote_status("/shared/runs/mine", "http://HEAD:8265")

The job is `jobs/status.py` of this folder, which goes along as with `tapir submit`. It claims no CPU, and is removed
once it has answered.
"""

from __future__ import annotations

import itertools
import json
import shlex
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from ray.job_submission import JobDetails, JobSubmissionClient

from tapir_ray.errors import InputError, StageError, last_line
from tapir_ray.forwarded import FILE, named
from tapir_ray.job_log import POLL_S, connect
from tapir_ray.storage import is_remote, refuse_secret
from tapir_ray.tree import files_of, pack

SCRIPT = "jobs/status.py"
PATIENCE_S = 180.0


def remote_status(run_dir: str, address: str, names: Iterable[str] = ()) -> dict[str, Any]:
    """`status.status` of a run as the cluster sees it, and in `jobs` {submission id: status} of those that work on it.

    The environment variables `names` go along, such as the keys of its storage. Raises InputError for what the job
    cannot work with or finds wrong, StageError where it does not answer.
    """
    if not is_remote(run_dir) and not PurePath(run_dir).is_absolute():
        raise InputError(f"{run_dir}: with --address give the run's URI, or its absolute path on the cluster's nodes")
    refuse_secret(run_dir)
    tree = Path.cwd()
    files = files_of(tree)
    if SCRIPT not in files:
        raise InputError(f"--address sends this folder, and it has no {SCRIPT}: call it in the root of a checkout")
    variables = named(names)
    client = connect(address)
    jobs = {str(job.submission_id): job.status.value for job in client.list_jobs() if works_on(job, run_dir)}
    submission_id = f"tapir-status-{uuid.uuid4().hex[:12]}"
    with tempfile.TemporaryDirectory(prefix="tapir-status-") as folder:
        package = Path(folder) / "tree.zip"
        pack(tree, files, {FILE: json.dumps(variables).encode()} if variables else {}, package)
        try:
            client.submit_job(
                entrypoint=shlex.join(["python", SCRIPT, run_dir, "--json"]),
                submission_id=submission_id,
                runtime_env={"working_dir": str(package)},
            )
        except RuntimeError as error:
            raise StageError(f"{address} did not take the job that was to look: {last_line(error)}") from error
    return {**_answer(client, submission_id), "jobs": jobs}


def works_on(job: JobDetails, run_dir: str) -> bool:
    """Whether a job's command names the run as its --run-dir."""
    with suppress(ValueError):  # a command of somebody else's that no shell would take
        words = shlex.split(job.entrypoint)
        return ("--run-dir", run_dir) in itertools.pairwise(words)
    return False


def answered(log: str, exit_status: int | None) -> dict[str, Any]:
    """The status in the log of the job that looked. Raises InputError or StageError with what it said instead."""
    lines = log.splitlines()
    if exit_status == 0:
        found: dict[str, Any] = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
        return found
    said = next((line for line in reversed(lines) if line.startswith("tapir: ")), "")
    if exit_status == InputError.exit_status and said:
        raise InputError(f"on the cluster: {said.removeprefix('tapir: ')}")
    raise StageError(f"the job that was to look failed: {said or '; '.join(lines[-3:]) or 'it left no log'}")


def _answer(client: JobSubmissionClient, submission_id: str) -> dict[str, Any]:
    """Wait for the job and remove it."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not (job := client.get_job_info(submission_id)).status.is_terminal():
            if time.monotonic() > deadline:
                raise StageError(f"{submission_id} has not answered for {PATIENCE_S:.0f} s: see `ray job logs` of it")
            time.sleep(POLL_S)
        code = job.driver_exit_code
        return answered(client.get_job_logs(submission_id) or str(job.message), None if code is None else int(code))
    finally:
        with suppress(RuntimeError):  # one that still runs is not removed
            client.delete_job(submission_id)
