"""`tapir status RUN --address URL`: the status as a job on the cluster sees it, for storage that is not seen from here.

found = remote_status("/shared/runs/mine", "http://HEAD:8265")
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from tapir_ray.cluster.jobs.follow import connect, listed, works_on
from tapir_ray.cluster.jobs.remote_query import Errand
from tapir_ray.data.secret_uris import refuse_secret
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError


def remote_status(run_dir: str, address: str, names: Iterable[str] = ()) -> dict[str, Any]:
    """`status.status` of a run as the cluster sees it, and in `jobs` {submission id: status} of those that work on it.

    The environment variables `names` go along, such as the keys of its storage. Raises InputError for what the job
    cannot work with or finds wrong, StageError where it does not answer.
    """
    if not is_remote(run_dir) and not PurePath(run_dir).is_absolute():
        raise InputError(f"{run_dir}: with --address give the run's URI, or its absolute path on the cluster's nodes")
    refuse_secret(run_dir)
    errand = Errand("jobs/status.py", [run_dir, "--json"], names)
    client = connect(address)
    jobs = {str(job.submission_id): job.status.value for job in listed(client) if works_on(job, run_dir)}
    return {**errand.run(client), "jobs": jobs}
