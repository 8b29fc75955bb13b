"""A model behind vLLM's own OpenAI server on loopback, for `tapir serve` and `tapir chat`: a child process.

    with served(Settings(model="runs/mine/checkpoints/02", name="mine", student=config.student)) as server:
        server.url                                   # http://127.0.0.1:8000/v1

The server and its engine end with the block, and with this process if it is killed.
"""

from __future__ import annotations

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tapir_ray.cluster.private_folder import private_folder
from tapir_ray.config import Replicas, Student
from tapir_ray.errors import InputError, StageError

HOST, MODULE = "127.0.0.1", "tapir_ray.llm.serve.vllm_server"
START_TIMEOUT_S = 1800.0
"""Seconds to the first answer, including a download of the weights."""
STOP_S = 15.0
"""Seconds that a server has to end by itself."""
LAST_LINES = 15
"""Lines of the log that an error shows."""


@dataclass(frozen=True)
class Settings:
    """Model, its name for clients, and the settings of its engine."""

    model: str
    """Folder, URI or HF name."""
    name: str
    student: Student
    replicas: Replicas = field(default_factory=Replicas)
    port: int = 0
    """0 takes any free port."""
    samples_as_run: bool = True
    """Whether requests without a temperature are answered at that of `student.sampling`."""
    fit: bool = False
    """Whether the longest conversation is what fits into memory, instead of `student.max_model_len`."""


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    url: str
    name: str
    log: Path
    process: subprocess.Popen[bytes]


@contextmanager
def served(settings: Settings, say: Callable[[str], None] = lambda _: None) -> Iterator[Server]:
    """Context manager with the server of a model, which answers when the block begins.

    Raises InputError for a port that is taken, and StageError, with the end of the log, if the server does not start.
    """
    port = _free_port(settings.port)
    handle, path = tempfile.mkstemp(dir=private_folder(), prefix="serve-", suffix=".log")
    log = Path(path)
    say(f"loading {settings.model}; log: {log}")
    with os.fdopen(handle, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A group of its own: Ctrl-C reaches this process alone, which then ends the whole group.
            start_new_session=True,
            env=_environment(),
        )
    failed = False
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has died already, which `_wait` reports
            process.stdin.write(_line(settings, port))
            process.stdin.flush()
        server = Server(f"http://{HOST}:{port}/v1", settings.name, log, process)
        _wait(server, port)
        yield server
        if process.poll() is not None:
            raise _ended(server)
    except (StageError, OSError):
        failed = True
        raise
    finally:
        _stop(process)
        if not failed:
            log.unlink(missing_ok=True)


def _line(settings: Settings, port: int) -> bytes:
    student = settings.student.model_dump(mode="json", exclude_unset=True)
    fields = {**asdict(settings), "student": student, "replicas": settings.replicas.model_dump(mode="json")}
    return json.dumps({**fields, "host": HOST, "port": port}).encode() + b"\n"


def _environment() -> dict[str, str]:
    # Without usage statistics, which vLLM would send over the network.
    return {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", **os.environ}


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port {port} cannot be used ({error.strerror}): give another one by --port") from error
        found: int = probe.getsockname()[1]
        return found


def _wait(server: Server, port: int) -> None:
    began = time.monotonic()
    while not _answers(f"http://{HOST}:{port}/health"):
        if server.process.poll() is not None:
            raise _ended(server)
        if time.monotonic() - began > START_TIMEOUT_S:
            raise StageError(f"the server does not answer after {START_TIMEOUT_S:g} s; its log: {server.log}")
        time.sleep(0.5)


def _answers(url: str) -> bool:
    # Without the proxies of the environment: the server is on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _ended(server: Server) -> StageError:
    lines = server.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
    return StageError(
        f"the server of {server.name} has ended (exit status {server.process.returncode}); its log is {server.log} and "
        "ends with:\n" + "\n".join(lines)
    )


def _stop(process: subprocess.Popen[Any]) -> None:
    """Ends a server and its engine: by SIGTERM, then whatever is left of its group by SIGKILL."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
