"""A model of the run's own behind the OpenAI protocol: an application of Ray Serve LLM, for as long as it is needed.

    application = start(endpoint, Replicas(gpus=1, replicas=2), "tapir-RUN-teacher", processes)
    application.url                                      # on loopback, on each node that holds a part of it
    stop(application)

Its replicas are placed on any nodes that have what they claim; to start a dead one again is left to Serve.
The application ends with the driver that started it, however that ends (`llm/serve/guard.py`).
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
from tapir_ray.llm.engine.vllm_stage import WHOLE_PROMPTS, engine_environment
from tapir_ray.llm.serve import guard, proxies
from tapir_ray.run.model_store import local
from tapir_ray.train.model_files import file_problems

START_TIMEOUT_S = 1800.0
"""From a place to the first answer, with the weights' way to their node."""
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
    """The folder in which the processes of its engines are recorded (see `llm/engine/watchdog.py`)."""
    earlier: frozenset[str]
    """Records of that folder that are not its own."""
    patience_s: float
    """Until its replicas have their place: an autoscaler may have to start nodes for them."""


def check_model(model: str, key: str) -> None:
    """Raises InputError if `model` is a local folder that vLLM cannot serve, such as one with a shard that is lost or
    cut short; a hub name is not looked up."""
    folder = Path(local(model))
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith("."):
            raise InputError(f"{key} {model} is not a folder")
        return
    if not (folder / "config.json").is_file():
        raise InputError(f"{key} {model} has no config.json: name a folder that save_pretrained wrote")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"{key} {model} has no tokenizer: save the tokenizer into the same folder")
    if problems := file_problems(folder, served=True):
        raise InputError(f"{key} {model}: {'; '.join(problems)}")


def deployment(endpoint: Endpoint, claim: Replicas, processes: str | None) -> dict[str, Any]:
    """The arguments of `ray.serve.llm.LLMConfig`; the endpoint's `engine_kwargs` win over what is derived here."""
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
            "max_constructor_retry_count": 1,
        },
    }


def _computes_on_cpus() -> bool:
    """Whether this is vLLM's build for CPUs: its replicas claim GPUs themselves. An engine with GPUs in its bundles is
    run by Ray, which that build cannot be."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def start(
    endpoint: Endpoint, claim: Replicas, name: str, processes: str | None = None, patience_s: float = 900.0
) -> Application:
    """The application NAME, once it answers; `name` ends in `-ROLE`.

    The processes of its engines are recorded in the folder `processes`, and end with their worker. Raises StageError
    where its resources are not to be had in `patience_s`, and where no replica starts, with the end of the
    engine's log.
    """
    from ray import serve

    role = name.rpartition("-")[2]
    app = _app(endpoint, claim, role, processes)
    url = f"http://127.0.0.1:{proxies.port()}/{name}/v1"
    storage = None if processes is None else Storage.at(processes)
    earlier = frozenset() if storage is None else frozenset(storage.children(""))
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
    """What Serve deploys. Raises StageError where the engine does not know an argument."""
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
    """End an application and its engines; also one that is gone already."""
    guard.delete(application.name)
    guard.end(application.name)
    ray.kill(application.beacon)


@contextmanager
def stopped_if_dead(applications: Mapping[str, Application]) -> Iterator[None]:
    """Raise StageError in the main thread, with the end of the log, where one of these has failed for good: its engines
    die at each start, or none has come in the time that a first one has.

    The mapping may change: an application that is taken out of it may end.
    """
    down: dict[str, tuple[float, int]] = {}

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
                lost, entries = True, entries[:-1]  # the last has just been started: the one before has failed
            else:
                lost = time.monotonic() - since > application.patience_s + START_TIMEOUT_S
            if lost and applications.get(role) is application:
                return _broken(application, message, entries)
        return None

    with watched(look, CHECK_S, "servers"):
        yield


def _status(application: Application) -> tuple[bool, str]:
    """(whether it runs, what Serve says of it)."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    status = serve.status().applications.get(application.name)
    if status is None:
        return False, "the application is gone"
    said = [status.message, *(deployment.message for deployment in status.deployments.values())]
    message = "\n".join(filter(None, said))
    if status.status == ApplicationStatus.DEPLOY_FAILED:
        raise _broken(application, message)
    return status.status == ApplicationStatus.RUNNING, message


def _wait(application: Application, claim: Replicas) -> None:
    """Until the application runs. Raises StageError."""
    began = time.monotonic()
    # Where nothing is recorded, it is not known when there was a place.
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
    """What is recorded of the workers of its engines, in the order of their starts."""
    entries = [application.processes.find_json(name) for name in _records(application) if application.processes]
    return sorted((entry for entry in entries if entry and entry["worker"]), key=lambda entry: entry["started"])


def _no_place(application: Application, claim: Replicas) -> StageError:
    role, gpus, cpus = application.role, claim.gpus * claim.tensor_parallel, claim.cpus * claim.tensor_parallel
    kind = f" of type {claim.accelerator_type}" if claim.accelerator_type else ""
    return StageError(
        f"the vLLM server of the {role} found no place in {application.patience_s:g} s "
        f"(resources.no_progress_timeout_s): it claims {cpus:g} CPUs and {gpus:g} GPUs{kind}; lower "
        f"resources.{role}.cpus, gpus or tensor_parallel, or end what else holds them"
    )


def _broken(application: Application, message: str, entries: list[dict[str, Any]] | None = None) -> StageError:
    """With the end of the log of the last of `entries`, which are by default all of the application's."""
    shown = _entries(application) if entries is None else entries
    return StageError(
        f"the vLLM server of the {application.role} cannot be used: {message}\n"
        f"the end of its engine's log:\n{health.last_lines(shown)}"
    )


def _first_answer(application: Application, model: str) -> None:
    """An engine can fail at its first token only, after it has said that it is up. Raises StageError."""
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
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout_s) as reply:
        reply.read()
