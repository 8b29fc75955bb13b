"""`tapir check CONFIG --address ADDRESS`: whether a cluster has the places, the models and the storage of a run.

    found = check_cluster(config, "s3://bucket/runs/mine", "10.0.0.1:6379")          # joins the cluster
    found = check_by_job(submission, "http://HEAD:8265", ["HF_TOKEN"])               # sends a job that does

Models and storage are tried by a worker: where the cluster has none yet, its autoscaler starts one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TextIO

from tapir_ray.cluster.capacity import claimed, fits_with_servers, fitting, model_servers, possible_nodes
from tapir_ray.cluster.jobs.follow import connect
from tapir_ray.cluster.jobs.remote_query import Errand
from tapir_ray.cluster.jobs.submit import Submission
from tapir_ray.cluster.jobs.submit import check as check_submission
from tapir_ray.cluster.session import session
from tapir_ray.cluster.workers import check_storage, model_problems, models, worker_beside
from tapir_ray.config import Config
from tapir_ray.errors import InputError, last_line
from tapir_ray.run.run import Run

HERE = "auto"
"""The address of the cluster that this process is in, as a job is."""
JOB = "check"
PATIENCE_S = 900.0
"""How long a job may look at least: the first worker may have to be started."""


def check_by_job(submission: Submission, address: str, names: Iterable[str] = ()) -> dict[str, Any]:
    """As `check_cluster`, by a job on the cluster whose dashboard is at the URL `address`.

    The environment variables `names` go along. Raises StageError where the job does not answer.
    """
    submission = replace(submission, job=JOB, arguments=("--json",))
    errand = Errand(submission.script, submission.words, names)
    check_submission(submission, errand.files)
    return errand.run(connect(address), max(PATIENCE_S, 2 * submission.config.resources.no_progress_timeout_s))


def check_cluster(config: Config, run_dir: str, address: str) -> dict[str, Any]:
    """What the cluster at `address` (HOST:PORT or HERE) has for a run, as JSON values for `show`.

    Raises InputError, naming the keys to change, where a claim of the run will never find a place, where a model is
    gated or not there, and where workers do not share the run's folder.
    """
    if address != HERE:
        os.environ["RAY_ADDRESS"] = address
    os.environ.setdefault("RAY_ADDRESS", HERE)
    run = Run.at(run_dir)
    run.refuse_another(config)
    try:
        with session(config), worker_beside(config):
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
            f"--address {address}: no Ray of that cluster runs on this machine ({last_line(error)}): "
            "call it on the head, or give its dashboard's URL, http://HEAD:8265"
        ) from error


def show(found: dict[str, Any], file: TextIO) -> None:
    """Print what `check_cluster` found, a line for each claim."""
    for node in found["nodes"]:
        has = ", ".join(f"{value:g} {name}" for name, value in sorted(node.items()) if name != "count")
        print(f"nodes, with those that may be added: {node['count']} with {has}", file=file)
    for claim in found["claims"]:
        ranks, places = claim["tensor_parallel"], min(claim["places"], claim["replicas"])
        print(
            f"resources.{claim['name']}: {places} of {claim['replicas']} with {ranks * claim['cpus']:g} CPUs and "
            f"{ranks * claim['gpus']:g} GPUs have a place at once",
            file=file,
        )
    for name in found["stops_for"]:
        print(f"local models are stopped while resources.{name} is placed, and started again", file=file)
    place = f"workers on {', '.join(found['seen_by'])}" if found["seen_by"] else "this machine, the only one"
    for model in found["models"]:
        print(f"model {model}: can be loaded", file=file)
    print(f"run_dir {found['run_dir']}: read, written and deleted by {place}", file=file)
