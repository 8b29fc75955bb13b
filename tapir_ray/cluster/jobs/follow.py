"""Connects to the head of a cluster, and prints the log of a job until it ends.

client = connect("http://HEAD:8265")
ended = follow(client, "tapir-0123456789ab-1")
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shlex
import time
from contextlib import suppress

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from tapir_ray.errors import InputError, StageError, last_line

POLL_S = 1.0
PATIENCE_S = 60.0
"""Seconds without an answer after which the head counts as lost."""
QUIET_S = 60.0
"""Seconds without output after which the connection of a log is opened again: a lost network raises no error."""


def connect(address: str) -> JobSubmissionClient:
    """A client of the head at `address`. Raises InputError if no head answers there, or if it rejects the token."""
    if not address.startswith(("http://", "https://")) or "@" in address:
        raise InputError("--address must be the URL of the head's dashboard, http://HEAD:8265, without user or key")
    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers this variable to the argument of the client
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise InputError(
            f"{address} rejects the token, or none is set: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a "
            "file with the cluster's token"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # exceptions of `requests` are OSErrors
        raise InputError(
            f"no Ray head answers at {address}: start one with its dashboard, or give the URL that reaches it "
            f"({last_line(error)})"
        ) from error


def listed(client: JobSubmissionClient) -> list[JobDetails]:
    """All jobs of the head. Raises StageError if it does not list them within PATIENCE_S.

    Tries again until then, because a busy head may answer with an error for a moment.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.list_jobs()
        except (OSError, RuntimeError) as error:
            if time.monotonic() > deadline:
                raise StageError(
                    f"the head does not list its jobs ({last_line(error)}): see its logs, and try again"
                ) from error
        time.sleep(POLL_S)


def works_on(job: JobDetails, run_dir: str) -> bool:
    """Returns whether the command of a job has the run as its --run-dir."""
    with suppress(ValueError):  # somebody else's command, which is not valid for a shell
        pairs = itertools.pairwise(shlex.split(job.entrypoint))
        return any(key == "--run-dir" and place.rstrip("/") == run_dir.rstrip("/") for key, place in pairs)
    return False


def follow(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    """Prints the log of a job from its beginning; returns the job once it has ended.

    After a broken connection it continues with the first text that was not printed. Raises StageError if the head does
    not answer, or does not know the job, for PATIENCE_S.
    """
    log, complete, lost = _Log(), False, None
    while True:
        try:
            job = client.get_job_info(submission_id)
            lost = None
            if job.status.is_terminal() and complete:
                return job
            complete = asyncio.run(log.print(client, submission_id))
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            complete, lost = False, lost or time.monotonic()
            if time.monotonic() - lost > PATIENCE_S:
                raise StageError(
                    f"the head has not answered for {PATIENCE_S:.0f} s ({last_line(error)}): finished work is on the "
                    "run's storage; start the same command again once the head answers to continue"
                ) from error
        time.sleep(POLL_S)


class _Log:
    """A log of which the first characters have been printed."""

    def __init__(self) -> None:
        self._printed = 0

    async def print(self, client: JobSubmissionClient, submission_id: str) -> bool:
        """Prints new text until the job ends (returns True), or until there is none for QUIET_S (returns False)."""
        passed, clock = 0, asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(QUIET_S) as patience:
                async for text in client.tail_job_logs(submission_id):
                    patience.reschedule(clock() + QUIET_S)
                    # Every connection sends the log from its beginning.
                    new = text[max(0, self._printed - passed) :]
                    passed += len(text)
                    if new:
                        print(new, end="", flush=True)
                        self._printed = passed
        except TimeoutError:
            return False
        return True
