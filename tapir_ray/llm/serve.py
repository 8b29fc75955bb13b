"""A model served by vLLM behind the OpenAI protocol on loopback, for as long as a run needs it.

    with serving(Endpoint(engine="vllm", model=folder), log) as url: ...      # without Ray
    server, url = start(endpoint, Replicas(gpus=1), "run-teacher")            # claims its resources of Ray

The server is a process of its own on this node; it ends with the one that started it, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray

from tapir_ray.config import Endpoint, Replicas
from tapir_ray.errors import InputError, StageError
from tapir_ray.interrupt import watched
from tapir_ray.models import local

PLACEMENT_TIMEOUT_S = 120.0
"""Until the actor of a server lives; what it claims is free at that time or was asked for in vain."""
START_TIMEOUT_S = 900.0
LOG_LINES = 40
CHECK_S = 5.0
_PR_SET_PDEATHSIG = 1

_WITHOUT_NO = {
    "aggregate_engine_logging",
    "data_parallel_multi_port_external_lb",
    "disable_log_stats",
    "grpc",
    "headless",
}
"""Flags of vLLM 0.29 that are off unless given; every other switch has a `--no-` form."""


def check_model(model: str, key: str) -> None:
    """Raises InputError where `model` is a local folder that vLLM cannot serve; a hub name is not looked up."""
    folder = Path(local(model))
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith("."):
            raise InputError(f"{key} {model} is not a folder")
        return
    if not (folder / "config.json").is_file():
        raise InputError(f"{key} {model} has no config.json: name a folder that save_pretrained wrote")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(f"{key} {model} has no tokenizer: save the tokenizer into the same folder")


def command(endpoint: Endpoint, port: int, tensor_parallel: int = 1) -> list[str]:
    """The command line of the server; `engine_kwargs` become its flags (false is `--no-…`), so they win over ours."""
    flags: dict[str, Any] = {
        "model": local(endpoint.model),
        "served_model_name": endpoint.model,
        "host": "127.0.0.1",
        "port": port,
        "max_model_len": endpoint.max_model_len,
        "tensor_parallel_size": tensor_parallel,
        "trust_remote_code": endpoint.trust_remote_code,
        **endpoint.engine_kwargs,
    }
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is False:
            words += [] if name.replace("-", "_") in _WITHOUT_NO else [f"--no-{flag.removeprefix('--')}"]
        elif value is not None:
            words += [flag, json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return words


@contextmanager
def serving(endpoint: Endpoint, log: Path, tensor_parallel: int = 1) -> Iterator[str]:
    """The base URL of a server of `endpoint.model`, once it answers; gone afterwards.

    Raises StageError with the end of its log where it ends or does not answer in time.
    """
    process, url = _spawn(endpoint, log, tensor_parallel)
    try:
        _wait(process, url, log, endpoint.model)
        yield url
    finally:
        _end(process)


class Server:
    """The Ray actor around a server: it claims the CPUs and GPUs, and the server dies with it."""

    def __init__(self, endpoint: Endpoint, log: Path, tensor_parallel: int) -> None:
        self._endpoint, self._log = endpoint, log
        self._process, self._url = _spawn(endpoint, log, tensor_parallel)

    def url(self) -> str:
        """The base URL, once the server answers. Raises StageError."""
        _wait(self._process, self._url, self._log, self._endpoint.model)
        return self._url

    def check(self) -> None:
        """Raises StageError, with the end of its log, where the server has ended."""
        if (status := self._process.poll()) is not None:
            raise _broken(self._log, self._endpoint.model, f"ended with status {status}")

    def stop(self) -> None:
        """End the server."""
        _end(self._process)


def start(endpoint: Endpoint, claim: Replicas, name: str) -> tuple[Any, str]:
    """(actor, base URL) of a server on this node with the claimed resources, once it answers.

    `name` ends in `-ROLE`. Raises StageError where the resources are not to be had in PLACEMENT_TIMEOUT_S, and where
    the server does not start.
    """
    log = Path(tempfile.mkdtemp(prefix="tapir-vllm-")) / f"{name}.log"
    actor: Any = (
        ray.remote(Server)
        .options(
            num_cpus=claim.cpus,
            num_gpus=claim.gpus * claim.tensor_parallel,
            accelerator_type=claim.accelerator_type,
            label_selector=_this_node(),
        )
        .remote(endpoint, log, claim.tensor_parallel)
    )
    try:
        _wait_for_place(actor, claim, name.rpartition("-")[2])
        return actor, ray.get(actor.url.remote())
    except ray.exceptions.RayTaskError as error:
        stop(actor)
        raise error.cause from None
    except BaseException:
        stop(actor)
        raise


def _wait_for_place(actor: Any, claim: Replicas, role: str) -> None:
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=PLACEMENT_TIMEOUT_S)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnschedulableError):
        ray.kill(actor)
        gpus = claim.gpus * claim.tensor_parallel
        kind = f" of type {claim.accelerator_type}" if claim.accelerator_type else ""
        raise StageError(
            f"the vLLM server of the {role} found no place on this node in {PLACEMENT_TIMEOUT_S:g} s: it claims "
            f"{claim.cpus:g} CPUs and {gpus:g} GPUs{kind}; lower resources.{role}.cpus, gpus or tensor_parallel, or "
            "end what else holds them"
        ) from None


def stop(server: Any) -> None:
    """End a server that `start` started; also one whose actor is dead already."""
    with suppress(ray.exceptions.RayError):
        ray.get(server.stop.remote(), timeout=60)
    ray.kill(server)


@contextmanager
def stopped_if_dead(servers: Mapping[str, Any]) -> Iterator[None]:
    """Raise StageError in the main thread, with the end of the log, where one of these servers has ended.

    The mapping may change: a server that is taken out of it may end.
    """

    def look() -> Exception | None:
        for role, server in list(servers.items()):
            error = _death(server, role)
            if error is not None and servers.get(role) is server:
                return error
        return None

    with watched(look, CHECK_S, "servers"):
        yield


def _death(server: Any, role: str) -> Exception | None:
    try:
        ray.get(server.check.remote(), timeout=CHECK_S)
    except ray.exceptions.RayTaskError as error:
        return error.cause
    except ray.exceptions.RayActorError as error:
        return StageError(f"the vLLM server of the {role} is gone: {error}")
    except ray.exceptions.GetTimeoutError:
        pass  # busy: looked at again
    return None


def beside(servers: Mapping[str, Any]) -> dict[str, Any]:
    """Ray options of a worker that must reach these servers: on this node, since they listen on loopback only."""
    return {"label_selector": _this_node()} if servers else {}


def _this_node() -> dict[str, str]:
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def _spawn(endpoint: Endpoint, log: Path, tensor_parallel: int) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(endpoint, port, tensor_parallel),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    return process, f"http://127.0.0.1:{port}/v1"


def _die_with_parent() -> None:
    # SIGTERM lets the API server take its engine process down with it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, model: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _request(f"{url}/models", None, timeout_s=5)
            # An engine can fail at its first token only, after the server has said that it is up.
            hello = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
            return _request(f"{url}/chat/completions", hello, timeout_s=START_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            raise _broken(log, model, f"answers HTTP {error.code}: {error.read().decode(errors='replace')}") from None
        except OSError:
            time.sleep(0.3)
    raise _broken(
        log, model, "does not answer" if process.poll() is None else f"ended with status {process.returncode}"
    )


def _request(url: str, body: dict[str, Any] | None, timeout_s: float) -> None:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout_s) as reply:
        reply.read()


def _broken(log: Path, model: str, what: str) -> StageError:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    return StageError(f"the vLLM server of {model} {what}; the end of {log}:\n{tail}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    try:
        # The engine is a process of the server's session: what is left of it ends here.
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(timeout=20)
