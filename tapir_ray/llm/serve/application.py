"""Serves a local model behind the OpenAI protocol, as an application of Ray Serve LLM.

    application = start(endpoint, Replicas(gpus=1, replicas=2), "tapir-RUN-teacher", processes)
    application.url                                      # on loopback, on each node with a proxy of Serve
    stop(application)

Ray places the replicas on any nodes with free resources, and Serve restarts dead ones. The application ends with the
driver that started it, even if that is killed (`llm/serve/guard.py`).
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from tapir_ray.cluster.interrupt import watched
from tapir_ray.config import Endpoint, Replicas
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError, StageError
from tapir_ray.llm.engine import health
from tapir_ray.llm.engine.requests import WHOLE_PROMPTS, engine_environment
from tapir_ray.llm.serve import guard, proxies
from tapir_ray.run.model_store import local
from tapir_ray.train.model_files import file_problems

START_TIMEOUT_S = 1800.0
"""Seconds from the placement of a replica to the first answer, including the download of the weights to its node."""
CHECK_S = 5.0


@dataclass(frozen=True)
class Application:
    """An application that `start` deployed."""

    name: str
    role: str
    url: str
    beacon: Any
    """An actor that dies with this driver."""
    processes: Storage | None
    """Folder with the records of its engine processes (see `llm/engine/watchdog.py`)."""
    earlier: frozenset[str]
    """Records in this folder that are older than the application."""
    patience_s: float
    """Seconds until its replicas must be placed: an autoscaler may have to start nodes for them."""


def check_model(model: str, key: str) -> None:
    """Raises InputError if `model` is a local folder that vLLM cannot serve, such as one with a missing or torn shard.

    The name of a model on a hub is not looked up.
    """
    folder = Path(local(model))
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith("."):
            raise InputError(f"{key} {model} is not a folder; correct the path, or give the name of a model on the hub")
        return
    if not (folder / "config.json").is_file():
        raise InputError(f"{key} {model} has no config.json: name a folder that save_pretrained wrote")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"{key} {model} has no tokenizer: save the tokenizer into the same folder")
    if problems := file_problems(folder, served=True):
        raise InputError(f"{key} {model}: {'; '.join(problems)}")


def deployment(endpoint: Endpoint, claim: Replicas, processes: str | None) -> dict[str, Any]:
    """Returns the arguments of `ray.serve.llm.LLMConfig`; the endpoint's `engine_kwargs` take precedence."""
    bundle, replica = {"CPU": claim.cpus}, {"num_cpus": 0.0}
    on_cpus = not claim.gpus or _computes_on_cpus()
    if claim.gpus and on_cpus:
        replica["num_gpus"] = claim.gpus * claim.tensor_parallel
    elif claim.gpus:
        bundle["GPU"] = claim.gpus
    arguments = {
        "max_model_len": endpoint.max_model_len,
        "tensor_parallel_size": claim.tensor_parallel,
        "trust_remote_code": endpoint.trust_remote_code,
        **(WHOLE_PROMPTS if on_cpus else {}),
        **endpoint.engine_kwargs,
    }
    return {
        "model_loading_config": {"model_id": endpoint.model, "model_source": local(endpoint.model)},
        "engine_kwargs": {name: value for name, value in arguments.items() if value is not None},
        "placement_group_config": {"bundle_per_worker": bundle},
        "accelerator_type": claim.accelerator_type,
        "runtime_env": {"env_vars": engine_environment(claim, processes, endpoint.model)},
        "log_engine_metrics": False,
        "deployment_config": {
            "ray_actor_options": replica,
            "autoscaling_config": {
                "min_replicas": claim.fewest,
                "initial_replicas": claim.fewest,
                "max_replicas": claim.replicas,
                "target_ongoing_requests": max(1, endpoint.limits.in_flight // claim.replicas),
            },
            # An engine that fails at its start fails again; by default Serve tries three times for each replica.
            "max_constructor_retry_count": 1,
        },
    }


def _computes_on_cpus() -> bool:
    """Whether this is vLLM's build for CPUs.

    Its replicas then claim (logical) GPUs themselves. With GPUs in its bundles the engine would use Ray for its
    workers, which this build does not support.
    """
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def start(
    endpoint: Endpoint, claim: Replicas, name: str, processes: str | None = None, patience_s: float = 900.0
) -> Application:
    """Deploys the application `name`, which ends in `-ROLE`, and returns it once it answers.

    The processes of its engines are recorded in the folder `processes`, and end with their worker. Raises StageError if
    its resources are not free within `patience_s`, or, with the end of the engine's log, if no replica starts.
    """
    from ray import serve

    role = name.rpartition("-")[2]
    app = _app(endpoint, claim, role, processes)
    url = f"http://127.0.0.1:{proxies.port()}/{name}/v1"
    storage = None if processes is None else Storage.at(processes)
    earlier = frozenset() if storage is None else frozenset(storage.children(""))
    # Not waited for here: `_wait` tells replicas without free resources from engines that cannot start.
    application = Application(name, role, url, guard.guarded(name), storage, earlier, patience_s)
    try:
        serve.run_many(
            [serve.RunTarget(app, name, f"/{name}", logging_config={"enable_access_log": False})],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        _wait(application, claim)
        _first_answer(application, endpoint.model)
    except BaseException:
        stop(application)
        raise
    return application


def _app(endpoint: Endpoint, claim: Replicas, role: str, processes: str | None) -> Any:
    """Returns the application for Serve to deploy. Raises StageError for an unknown engine argument."""
    from ray.serve.llm import LLMConfig, build_openai_app

    try:
        return build_openai_app(
            {
                "llm_configs": [LLMConfig(**deployment(endpoint, claim, processes))],
                "ingress_deployment_config": {
                    "ray_actor_options": {"num_cpus": 0},
                    "autoscaling_config": {"min_replicas": 1, "initial_replicas": 1, "max_replicas": claim.replicas},
                },
            }
        )
    except ValueError as error:
        raise StageError(
            f"the vLLM server of the {role} cannot be made: {error}; correct {role}.engine_kwargs or resources.{role}"
        ) from error


def stop(application: Application) -> None:
    """Stops an application and its engines. An application that has already ended is no error."""
    guard.delete(application.name)
    guard.end(application.name)
    ray.kill(application.beacon)


@contextmanager
def stopped_if_dead(applications: Mapping[str, Application]) -> Iterator[None]:
    """Context manager that raises StageError in the main thread if one of the applications fails permanently.

    That is the case if its engines die at every start, or if none starts in `patience_s` and START_TIMEOUT_S. The
    message has the end of the log. An application may be stopped once it is removed from the mapping.
    """
    down: dict[str, tuple[float, int]] = {}
    """By role: when the application was first seen down, and the number of engine starts at that time."""

    def look() -> Exception | None:
        for role, application in list(applications.items()):
            try:
                running, message = _status(application)
            except StageError as error:
                return error
            if running:
                down.pop(role, None)
                continue
            entries = _entries(application)
            since, before = down.setdefault(role, (time.monotonic(), len(entries)))
            if len(entries) - before > health.STARTS:
                lost, entries = True, entries[:-1]  # the last engine has just started, so its log has no error yet
            else:
                lost = time.monotonic() - since > application.patience_s + START_TIMEOUT_S
            if lost and applications.get(role) is application:
                return _broken(application, message, entries)
        return None

    with watched(look, CHECK_S, "servers"):
        yield


def _status(application: Application) -> tuple[bool, str]:
    """Returns (whether the application runs, Serve's messages). Raises StageError after a failed deployment."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    status = serve.status().applications.get(application.name)
    if status is None:
        return False, "Ray Serve no longer has the application"
    said = [status.message, *(deployment.message for deployment in status.deployments.values())]
    message = "\n".join(filter(None, said))
    if status.status == ApplicationStatus.DEPLOY_FAILED:
        raise _broken(application, message)
    return status.status == ApplicationStatus.RUNNING, message


def _wait(application: Application, claim: Replicas) -> None:
    """Waits until the application runs. Raises StageError if it does not."""
    began = time.monotonic()
    # Without records the time of the placement is not known: the time to start counts from now.
    placed = None if application.processes else began
    running, message = False, ""
    while not (running and proxies.listening()):
        now = time.monotonic()
        if placed is None and _records(application):
            placed = now
        if placed is None and now - began > application.patience_s:
            raise _no_place(application, claim)
        if placed is not None and now - placed > START_TIMEOUT_S:
            raise _broken(application, f"does not run after {START_TIMEOUT_S:g} s. {message}")
        time.sleep(0.5)
        running, message = _status(application)


def _records(application: Application) -> list[str]:
    if application.processes is None:
        return []
    names = application.processes.children("")
    return [name for name in names if name.endswith(".json") and name not in application.earlier]


def _entries(application: Application) -> list[dict[str, Any]]:
    """Returns the records of the workers of its engines, in the order of their starts."""
    entries = [application.processes.find_json(name) for name in _records(application) if application.processes]
    return sorted((entry for entry in entries if entry and entry["worker"]), key=lambda entry: entry["started"])


def _no_place(application: Application, claim: Replicas) -> StageError:
    role, gpus, cpus = application.role, claim.gpus * claim.tensor_parallel, claim.cpus * claim.tensor_parallel
    kind = f" of type {claim.accelerator_type}" if claim.accelerator_type else ""
    return StageError(
        f"the vLLM server of the {role} found no free resources in {application.patience_s:g} s "
        f"(resources.no_progress_timeout_s): it claims {cpus:g} CPUs and {gpus:g} GPUs{kind}; lower "
        f"resources.{role}.cpus, gpus or tensor_parallel, or end other work on the cluster"
    )


def _broken(application: Application, message: str, entries: list[dict[str, Any]] | None = None) -> StageError:
    """Returns an error with the end of the latest readable log of `entries` (by default all of the application's)."""
    shown = _entries(application) if entries is None else entries
    return StageError(
        f"the vLLM server of the {application.role} cannot be used: {message}\n"
        f"the end of its engine's log:\n{health.last_lines(shown)}"
    )


def _first_answer(application: Application, model: str) -> None:
    """Asks for one token. Raises StageError if none comes."""
    # An engine can report that it is up, and fail at its first token.
    hello = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        _request(f"{application.url}/chat/completions", hello, timeout_s=START_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        raise _broken(application, f"it answers HTTP {error.code}: {said}") from None
    except OSError as error:
        raise _broken(application, f"{application.url} does not answer: {error}") from None


def _request(url: str, body: dict[str, Any], timeout_s: float) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    # Without the proxies of the environment: the server is on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout_s) as reply:
        reply.read()
