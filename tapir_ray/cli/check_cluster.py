"""`tapir check CONFIG --address ADDRESS`: checks that a cluster has the capacity, models and storage of a run.

    found = check_cluster(config, "s3://bucket/runs/mine", "10.0.0.1:6379")          # joins the cluster
    found = check_by_job(submission, "http://HEAD:8265", ["HF_TOKEN"])               # submits a job that does

A worker tries the models and the storage. If the cluster has no worker yet, its autoscaler starts one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TextIO

from tapir_ray.cluster.capacity import claimed, fits_with_servers, fitting, model_servers, possible_nodes
from tapir_ray.cluster.jobs.follow import connect
from tapir_ray.cluster.jobs.remote_query import RemoteQuery
from tapir_ray.cluster.jobs.submit import Submission
from tapir_ray.cluster.jobs.submit import check as check_submission
from tapir_ray.cluster.session import session
from tapir_ray.cluster.workers import check_storage, model_problems, models, second_worker
from tapir_ray.config import Config
from tapir_ray.errors import InputError, last_line
from tapir_ray.run.run import Run

HERE = "auto"
"""Address of the cluster that runs this process, for a job."""
JOB = "check"
PATIENCE_S = 900.0
"""Shortest time limit of the job: the autoscaler may have to start the first worker."""


def check_by_job(submission: Submission, address: str, names: Iterable[str] = ()) -> dict[str, Any]:
    """Runs `check_cluster` as a job on the cluster whose dashboard has the URL `address`, and returns its result.

    The job gets the environment variables `names`. Raises StageError if the job does not answer.
    """
    submission = replace(submission, job=JOB, arguments=("--json",))
    query = RemoteQuery(submission.script, submission.words, names)
    check_submission(submission, query.files)
    return query.run(connect(address), max(PATIENCE_S, 2 * submission.config.resources.no_progress_timeout_s))


def check_cluster(config: Config, run_dir: str, address: str) -> dict[str, Any]:
    """Returns the nodes, places, models and storage of the cluster at `address` (HOST:PORT or HERE), for `show`.

    Raises InputError, naming the keys to change, if a claim of the run never fits, a model is gated or missing, or
    workers do not share the run's folder.
    """
    # `session` starts a Ray of its own unless this variable names one.
    if address != HERE:
        os.environ["RAY_ADDRESS"] = address
    os.environ.setdefault("RAY_ADDRESS", HERE)
    run = Run.at(run_dir)
    run.refuse_another(config)
    try:
        with session(config), second_worker(config):
            nodes = possible_nodes()
            if problems := model_problems(config):
                raise InputError("; ".join(problems))
            kinds = Counter(tuple(sorted(node.items())) for node in nodes)
            return {
                "nodes": [{"count": count, **dict(node)} for node, count in kinds.items()],
                "claims": [
                    {"name": name, **claim.model_dump(), "places": fitting(claim, nodes)}
                    for name, claim in claimed(config).items()
                ],
                "stops_for": [
                    name
                    for name in claimed(config)
                    if name in ("student", "train")
                    and model_servers(config)
                    and not fits_with_servers(config, name, nodes)
                ],
                "models": [model for _, model, _ in models(config)],
                "run_dir": run.uri,
                "seen_by": check_storage(run, config),
            }
    except ConnectionError as error:
        raise InputError(
            f"--address {address}: this machine is not a node of that cluster ({last_line(error)}): "
            "run the command on the head, or give the URL of its dashboard, http://HEAD:8265"
        ) from error


def show(found: dict[str, Any], file: TextIO) -> None:
    """Prints the result of `check_cluster`: nodes, a line for each claim, models and storage."""
    for node in found["nodes"]:
        has = ", ".join(f"{value:g} {name}" for name, value in sorted(node.items()) if name != "count")
        print(f"nodes, present or to be added: {node['count']} with {has}", file=file)
    for claim in found["claims"]:
        ranks, places = claim["tensor_parallel"], min(claim["places"], claim["replicas"])
        print(
            f"resources.{claim['name']}: {places} of {claim['replicas']} with {ranks * claim['cpus']:g} CPUs and "
            f"{ranks * claim['gpus']:g} GPUs fit at once",
            file=file,
        )
    for name in found["stops_for"]:
        print(f"local models stop while resources.{name} is in use, and start again afterwards", file=file)
    place = f"workers on {', '.join(found['seen_by'])}" if found["seen_by"] else "this machine, the only one"
    for model in found["models"]:
        print(f"model {model}: can be loaded", file=file)
    print(f"run_dir {found['run_dir']}: read, written and deleted by {place}", file=file)
