"""Runs a short job on a cluster that answers a question of a local command with one line of JSON.

    query = RemoteQuery("jobs/status.py", ["/shared/runs/mine", "--json"], ["AWS_PROFILE"])
    found = query.run(connect("http://HEAD:8265"))

The script is a file of this folder, which is sent as by `tapir submit`. The job claims no CPU and is deleted once it
has answered.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from ray.job_submission import JobDetails, JobSubmissionClient

from tapir_ray.cluster.jobs.env_vars import FILE, HOOK, named
from tapir_ray.cluster.jobs.follow import POLL_S
from tapir_ray.cluster.jobs.package import files_of, left_out, pack
from tapir_ray.errors import InputError, StageError, last_line

PATIENCE_S = 180.0
"""Longest wait for the answer, in seconds."""


class RemoteQuery:
    """A script with its arguments, and the `names` of environment variables to forward, such as keys of a storage."""

    def __init__(self, script: str, arguments: Sequence[str], names: Iterable[str] = ()) -> None:
        """Raises InputError if this folder lacks the script, and for names that `--env` rejects."""
        self._tree = Path.cwd()
        self.files = files_of(self._tree)
        if script not in self.files:
            raise InputError(f"--address sends this folder, and it has no {script}: call it in the root of a checkout")
        if kept_here := left_out(self._tree):
            print(f"tapir: {kept_here}", file=sys.stderr, flush=True)
        self._script, self._arguments, self._variables = script, arguments, named(names)

    def run(self, client: JobSubmissionClient, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Runs the job and returns its answer. Raises its InputError, or StageError if it does not answer in time."""
        submission_id = f"tapir-{PurePath(self._script).stem}-{uuid.uuid4().hex[:12]}"
        with tempfile.TemporaryDirectory(prefix="tapir-query-") as folder:
            package = Path(folder) / "tree.zip"
            private = {FILE: json.dumps(self._variables).encode()} if self._variables else {}
            pack(self._tree, self.files, private, package)
            runtime_env = {"working_dir": str(package), **({"worker_process_setup_hook": HOOK} if private else {})}
            try:
                client.submit_job(
                    entrypoint=shlex.join(["python", self._script, *self._arguments]),
                    submission_id=submission_id,
                    runtime_env=runtime_env,
                )
            except RuntimeError as error:
                raise StageError(
                    f"the head did not accept {submission_id} ({last_line(error)}): see its logs, and try again"
                ) from error
        return _answer(client, submission_id, patience_s)


def answered(log: str, exit_status: int | None) -> dict[str, Any]:
    """The JSON in the log of an ended job. Raises InputError or StageError with the job's own error if it failed."""
    lines = log.splitlines()
    if exit_status == 0:
        found: dict[str, Any] = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
        return found
    message = next((line for line in reversed(lines) if line.startswith("tapir: ")), "")
    if exit_status == InputError.exit_status and message:
        raise InputError(f"on the cluster: {message.removeprefix('tapir: ')}")
    raise StageError(f"the job on the cluster failed: {message or '; '.join(lines[-3:]) or 'it left no log'}")


def _answer(client: JobSubmissionClient, submission_id: str, patience_s: float) -> dict[str, Any]:
    """Waits for the job, returns its answer and deletes it."""
    deadline = time.monotonic() + patience_s
    job: JobDetails | None = None
    try:
        while job is None or not job.status.is_terminal():
            if time.monotonic() > deadline:
                raise StageError(f"{submission_id} has not answered for {patience_s:.0f} s: see `ray job logs` of it")
            time.sleep(POLL_S)
            with suppress(OSError, RuntimeError):  # a head that does not answer for a moment
                job = client.get_job_info(submission_id)
        code = job.driver_exit_code
        return answered(client.get_job_logs(submission_id) or str(job.message), None if code is None else int(code))
    finally:
        with suppress(RuntimeError, OSError):  # Ray deletes no job that has not ended yet
            # After a timeout or Ctrl-C nobody waits for the job any more.
            if job is None or not job.status.is_terminal():
                client.stop_job(submission_id)
            client.delete_job(submission_id)
