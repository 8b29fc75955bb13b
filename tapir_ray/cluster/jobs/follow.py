"""A job on a cluster as it is seen from here: the head that has it, and its log until it ends.

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
"""How long a head may not answer before it is given up."""
QUIET_S = 60.0
"""How long a log may say nothing before its connection is made anew: one whose network is gone says nothing of it."""


def connect(address: str) -> JobSubmissionClient:
    """A client of the head at `address`. Raises InputError where none answers there, or it wants another token."""
    if not address.startswith(("http://", "https://")) or "@" in address:
        raise InputError("--address must be the URL of the head's dashboard, http://HEAD:8265, without user or key")
    for name in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # what is set there wins over what a client is given
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise InputError(
            f"{address} refuses this token, or there is none: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a "
            "file with the cluster's token"
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # those of requests are OSErrors
        raise InputError(
            f"no Ray head answers at {address}: start one with its dashboard, or give the URL that reaches it "
            f"({last_line(error)})"
        ) from error


def listed(client: JobSubmissionClient) -> list[JobDetails]:
    """All jobs that the head knows. Raises StageError where it does not say within PATIENCE_S: a busy one may answer
    with an error for a moment."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.list_jobs()
        except (OSError, RuntimeError) as error:
            if time.monotonic() > deadline:
                raise StageError(
                    f"the head does not say which jobs it has ({last_line(error)}): see its logs, and try again"
                ) from error
        time.sleep(POLL_S)


def works_on(job: JobDetails, run_dir: str) -> bool:
    """Whether a job's command names the run as its --run-dir."""
    with suppress(ValueError):  # a command of somebody else's that no shell would take
        pairs = itertools.pairwise(shlex.split(job.entrypoint))
        return any(key == "--run-dir" and place.rstrip("/") == run_dir.rstrip("/") for key, place in pairs)
    return False


def follow(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    """Print a job's log from its beginning; returns the job once it has ended.

    A broken connection is made anew, and goes on with the first line that was not printed. Raises StageError where the
    head does not answer, or does not know the job, for PATIENCE_S.
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
                    f"the head has not answered for {PATIENCE_S:.0f} s ({last_line(error)}): what is finished is on "
                    "the run's storage, and the same command goes on from it once there is a head"
                ) from error
        time.sleep(POLL_S)


class _Log:
    """What has been printed of a log."""

    def __init__(self) -> None:
        self._printed = 0

    async def print(self, client: JobSubmissionClient, submission_id: str) -> bool:
        """Print what is new until the job ends, or there is nothing for QUIET_S; returns whether that was all."""
        passed, clock = 0, asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(QUIET_S) as patience:
                async for text in client.tail_job_logs(submission_id):
                    patience.reschedule(clock() + QUIET_S)
                    new = text[max(0, self._printed - passed) :]
                    passed += len(text)
                    if new:
                        print(new, end="", flush=True)
                        self._printed = passed
        except TimeoutError:
            return False
        return True
