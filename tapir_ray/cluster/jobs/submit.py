"""Runs a job of this folder on a cluster and follows it to its end: `tapir submit CONFIG --job NAME --address URL`.

    submit(Submission(config, "configs/mine.yaml", "s3://bucket/runs/mine", "distill"), "http://HEAD:8265", ["API_KEY"])

The job's id is `tapir-<run hash>-<attempt>`. A run has at most one living job, to which a second submit attaches; the
next attempt continues where the last one ended. The job works in a copy of this folder, which Ray deletes at its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from tapir_ray.cluster.jobs.env_vars import FILE, HOOK, named
from tapir_ray.cluster.jobs.follow import POLL_S, connect, follow, listed, works_on
from tapir_ray.cluster.jobs.package import files_of, left_out, pack
from tapir_ray.config import Config
from tapir_ray.config.credentials import refuse_words
from tapir_ray.config.data import RECORDED, TASKS
from tapir_ray.data.secret_uris import refuse_secret
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError, StageError, Stopped, last_line

FOLDER = "jobs"
NAME = "tapir_job"
"""Key of a job's metadata with the value of `--job`."""
STOP_S = 60
"""Seconds that a stopped job has to end by itself; Ray's default of 3 s is too short to end engines."""


@dataclass(frozen=True)
class Submission:
    """A job and the run that it works on; relative paths are relative to the working folder."""

    config: Config
    path: str
    run_dir: str
    job: str
    overrides: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    """Arguments of the job itself, after CONFIG, --set and --run-dir."""

    @property
    def run_hash(self) -> str:
        """12 hex digits, equal for all submissions of one run: a hash of its folder and of all keys that affect it."""
        place = self.run_dir if is_remote(self.run_dir) else str(PurePath(self.run_dir))
        return hashlib.sha256(f"{place.rstrip('/')} {self.config.digest()}".encode()).hexdigest()[:12]

    @property
    def script(self) -> str:
        """The file of the job in the working folder."""
        return f"{FOLDER}/{self.job}.py"

    @property
    def words(self) -> list[str]:
        """The arguments of the script."""
        settings = ["--set", *self.overrides] if self.overrides else []
        return [os.path.relpath(self.path), *settings, "--run-dir", self.run_dir, *self.arguments]

    @property
    def entrypoint(self) -> str:
        """The shell command of the job."""
        return shlex.join(["python", self.script, *self.words])


def submit(submission: Submission, address: str, names: Iterable[str] = ()) -> int:
    """Sends the job, or attaches to the living job of the run; prints its log to stdout and returns its exit status.

    `names` are environment variables to forward. Raises InputError, before anything is sent, for inputs that the job
    could not use; Stopped if Ctrl-C detaches, which leaves the job running; StageError if the head is lost.
    """
    tree = Path.cwd()
    files = files_of(tree)
    check(submission, files)
    if kept_here := left_out(tree):
        _say(kept_here)
    variables = named(names)
    for key, endpoint in submission.config.endpoints.items():
        if endpoint.api_key_env and endpoint.api_key_env not in variables:
            _say(f"{key}.api_key_env: the cluster must have {endpoint.api_key_env} itself, or add it to --env")
    client = connect(address)
    with tempfile.TemporaryDirectory(prefix="tapir-submit-") as folder:
        package = Path(folder) / "tree.zip"
        pack(tree, files, {FILE: json.dumps(variables).encode()} if variables else {}, package)
        submission_id = _send(client, submission, package, bool(variables))
    try:
        ended = follow(client, submission_id)
    except KeyboardInterrupt:
        raise Stopped(
            f"detached from {submission_id}, which continues; the same command attaches again, and with --stop it ends "
            "the job"
        ) from None
    _say(f"{submission_id} {ended.status.value}")
    if ended.driver_exit_code is None and ended.status == JobStatus.FAILED:
        _say(ended.message or "Ray gives no reason")
    return exit_status(ended)


def stop(submission: Submission, address: str) -> None:
    """Stops the living job of the run and returns once it has ended. A new submit continues its work.

    Raises InputError if the run has no living job, StageError if the job does not end.
    """
    client = connect(address)
    jobs = listed(client)
    running = living(attempts(jobs, submission.run_hash))
    if running is None:
        # If the config has changed since the submit, the job has another hash.
        others = (job for job in jobs if NAME in (job.metadata or {}) and works_on(job, submission.run_dir))
        running = next((job for job in others if not job.status.is_terminal()), None)
        if running is None:
            raise InputError(
                f"no job of tapir submit works on {submission.run_dir} at {address}: there is nothing to stop"
            )
        _say(f"{running.submission_id} works on {submission.run_dir} with another config: {running.entrypoint}")
    _refuse_another(running, submission)
    submission_id, deadline = str(running.submission_id), time.monotonic() + 2 * STOP_S
    status = running.status
    while not status.is_terminal():
        if time.monotonic() > deadline:
            raise StageError(f"{submission_id} has not ended within {2 * STOP_S} s: see Ray's logs on the head")
        # Repeated, because a job that is still starting ignores it, and the head may not answer for a moment.
        with suppress(OSError, RuntimeError):
            client.stop_job(submission_id)
        time.sleep(POLL_S)
        with suppress(OSError, RuntimeError):
            status = client.get_job_status(submission_id)
    _say(f"{submission_id} {status.value}")


def check(submission: Submission, files: Iterable[str]) -> None:
    """Raises InputError if the job, with `files` sent, would miss inputs or lose its results.

    Also if the command of the job or a path in its config holds a key, because the head stores and shows both; the
    error names only the scheme.
    """
    places = [place for _, place in _inputs(submission.config)]
    cache = submission.config.cache.dir or ""
    for given in (submission.run_dir, cache, *places):
        refuse_secret(given)
    refuse_words([*submission.overrides, *submission.arguments])
    sent = set(files)
    if (script := submission.script) not in sent:
        there = sorted(PurePath(name).stem for name in sent if PurePath(name).match(f"{FOLDER}/*.py"))
        raise InputError(
            f"--job {submission.job}: there is no {script} here; choose one of {', '.join(there)}"
            if there
            else f"--job {submission.job}: there is no {FOLDER}/ here; submit from the root of a checkout of tapir-ray"
        )
    for key, place in (("--run-dir", submission.run_dir), ("cache.dir", submission.config.cache.dir)):
        if place is not None and not is_remote(place) and not PurePath(place).is_absolute():
            raise InputError(
                f"{key} {place} would be in the job's working folder, which is deleted when it ends: give a URI "
                "(s3://…, gs://…), or the absolute path of a folder that all nodes share"
            )
    if not is_remote(submission.run_dir) or submission.run_dir.startswith("file://"):
        _say(f"{submission.run_dir} must be a folder that all nodes of the cluster share")
    for key, place in [("CONFIG", submission.path), *_inputs(submission.config)]:
        if key != "CONFIG" and (is_remote(place) or PurePath(place).is_absolute() or not Path(place).exists()):
            continue  # a path on the cluster, or a hub name
        name = PurePath(os.path.relpath(place)).as_posix()
        if name not in sent and not any(other.startswith(f"{name}/") for other in sent):
            raise InputError(
                f"{key} {place} is not sent: it is outside of the working folder, left out by a .gitignore or "
                ".rayignore, or has the name of a file with keys; put it on storage that the cluster reaches, or "
                "include it by a line !NAME in .rayignore"
            )


def attempts(jobs: Iterable[JobDetails], run_hash: str) -> dict[int, JobDetails]:
    """The jobs of a run by the number of the attempt, in rising order."""
    found = {}
    for job in jobs:
        head, _, number = (job.submission_id or "").rpartition("-")
        if head == f"tapir-{run_hash}" and number.isdigit():
            found[int(number)] = job
    return dict(sorted(found.items()))


def living(found: dict[int, JobDetails]) -> JobDetails | None:
    """The job that has not ended; None if all have."""
    return next((job for job in found.values() if not job.status.is_terminal()), None)


def next_id(found: dict[int, JobDetails], run_hash: str) -> str:
    """The id of the next attempt. Ray accepts no id twice, not even that of a failed job."""
    return f"tapir-{run_hash}-{max(found, default=0) + 1}"


def exit_status(job: JobDetails) -> int:
    """The exit status of an ended job, as a shell reports it (143 after SIGTERM); 3 if stopped, 1 if it never began."""
    if job.status == JobStatus.STOPPED:
        return Stopped.exit_status
    if job.driver_exit_code is None:
        return int(job.status != JobStatus.SUCCEEDED)
    code = int(job.driver_exit_code)  # negative after a signal
    return code if code >= 0 else 128 - code


def _send(client: JobSubmissionClient, submission: Submission, package: Path, hooked: bool) -> str:
    """Submits the job unless the run has a living one; returns the id of the living job."""
    found = attempts(listed(client), submission.run_hash)
    running, submission_id = living(found), next_id(found, submission.run_hash)
    if running is None:
        runtime_env = {"working_dir": str(package), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}}
        runtime_env |= {"worker_process_setup_hook": HOOK} if hooked else {}
        try:
            client.submit_job(
                entrypoint=submission.entrypoint,
                submission_id=submission_id,
                runtime_env=runtime_env,
                metadata={NAME: submission.job},
            )
        except RuntimeError as error:
            # Another submit of this run may have taken the id in the meantime.
            with suppress(RuntimeError):
                running = living(attempts(client.list_jobs(), submission.run_hash))
            if running is None:
                raise StageError(
                    f"the head did not accept {submission_id} ({last_line(error)}): see its logs, and try again"
                ) from error
        else:
            _say(f"{submission_id} submitted: {submission.entrypoint}")
            return submission_id
    _refuse_another(running, submission)
    _say(f"{running.submission_id} already works on this run, with the files sent at its start: {running.entrypoint}")
    return str(running.submission_id)


def _refuse_another(running: JobDetails, submission: Submission) -> None:
    name = (running.metadata or {}).get(NAME)
    if name != submission.job:
        raise InputError(
            f"{running.submission_id} works on {submission.run_dir} as --job {name}, not {submission.job}: wait for "
            f"its end, or give --job {name} to follow or --stop it"
        )


def _inputs(config: Config) -> list[tuple[str, str]]:
    """(config key, path) of every file or folder that the config reads."""
    simulator = config.simulator
    served = {role: endpoint for role, endpoint in config.endpoints.items() if endpoint.spec.local}
    keys = [
        ("seed_data.path", config.seed_data.path),
        *((f"{role}.model", endpoint.model) for role, endpoint in served.items()),
        (
            "simulator.scenario",
            simulator.scenario if simulator and simulator.scenario not in (TASKS, RECORDED) else None,
        ),
        ("simulator.path", simulator.path if simulator else None),
        ("prompts.dir", config.prompts.dir),
        ("student.model", config.student.model),
        ("classify.model", config.classify.model),
        *(("filter.evaluation_sets", path) for path in config.filter.evaluation_sets),
    ]
    if config.curriculum.tasks.endswith((".yaml", ".yml")):
        keys.append(("curriculum.tasks", config.curriculum.tasks))
    return [(key, place) for key, place in keys if place is not None]


def _say(line: str) -> None:
    print(f"tapir: {line}", file=sys.stderr, flush=True)
