"""`tapir status RUN --address URL`: the status by a job on the cluster, for storage that this machine cannot reach.

found = remote_status("/shared/runs/mine", "http://HEAD:8265")
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from tapir_ray.cluster.jobs.follow import connect, listed, works_on
from tapir_ray.cluster.jobs.remote_query import RemoteQuery
from tapir_ray.data.secret_uris import refuse_secret
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError


def remote_status(run_dir: str, address: str, names: Iterable[str] = ()) -> dict[str, Any]:
    """Returns `status.status` of a run from a job on the cluster, and in `jobs` {submission id: status} of its jobs.

    The job gets the environment variables `names`, such as the keys of the storage. Raises InputError for a relative
    `run_dir`, a URI with a credential and mistakes that the job reports, and StageError if the job does not answer.
    """
    if not is_remote(run_dir) and not PurePath(run_dir).is_absolute():
        raise InputError(f"{run_dir}: with --address give the run's URI, or its absolute path on the cluster's nodes")
    refuse_secret(run_dir)
    query = RemoteQuery("jobs/status.py", [run_dir, "--json"], names)
    client = connect(address)
    jobs = {str(job.submission_id): job.status.value for job in listed(client) if works_on(job, run_dir)}
    return {**query.run(client), "jobs": jobs}
