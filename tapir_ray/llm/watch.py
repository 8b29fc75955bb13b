"""Engine processes that die with their worker, and the record of those that might not.

    python -m tapir_ray.llm.watch PID STARTED FOLDER         # the watcher of one worker; ends with it

vLLM loads `watch_engine` as a plugin (`vllm.general_plugins`) in the Ray worker that holds an engine. A killed worker
would otherwise leave the engine's own processes behind, with the memory they hold: those that were just starting wait
for it for minutes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import psutil

from tapir_ray.errors import InputError
from tapir_ray.storage import Storage

PROCESSES = "TAPIR_ENGINE_PROCESSES"
"""Environment variable that turns the watch on: the folder (path or URI) where the engine's processes are recorded."""
WORKER = "TAPIR_ENGINE_WORKER"
"""Environment variable by which the processes of a worker's engine are known: the worker, as `PID-STARTED`."""
ENGINE_CORE = "EngineCore"
"""In the title of the process that computes: the first of an engine's."""
CHECK_S, NOTICE_S = 0.5, 15.0
"""How often a watcher looks, and how long a worker has to notice that its engine is dead."""


def watch_engine() -> None:
    """Record this worker and start its watcher; does nothing outside a run, and in the engine's other processes."""
    folder = os.environ.get(PROCESSES)
    if folder is None or WORKER in os.environ:
        return
    me = identity(os.getpid())
    os.environ[WORKER] = _name(me)
    command = [sys.executable, "-m", "tapir_ray.llm.watch", str(me["pid"]), repr(me["started"]), folder]
    quiet = subprocess.DEVNULL
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
    with suppress(OSError, InputError):  # the record is the second line of defence; the engine must not end for it
        record(folder, {**me, "worker": True, "node": node, "log": os.readlink("/proc/self/fd/2")})


def watch(worker: dict[str, Any], folder: str) -> None:
    """Wait for the end of a worker (an `identity`), then end what its engine has left; record it while it lives.

    A worker whose engine has died ends itself, so that Ray starts another. Now and then it misses the death and would
    wait for answers for ever: it is ended after NOTICE_S.
    """
    family: dict[str, dict[str, Any]] = {}
    engines: dict[str, dict[str, Any]] = {}
    last_seen = time.monotonic()
    while is_alive(worker):
        with suppress(psutil.Error, OSError, InputError):
            for child in _descendants(worker["pid"]):
                if _name(child) in family and "recorded" not in family[_name(child)]:
                    family[_name(child)]["recorded"] = True
                    record(folder, {**child, "worker": False})
                family.setdefault(_name(child), child)
                if ENGINE_CORE in _title(child["pid"]):
                    engines[_name(child)] = child
        if not engines or any(map(is_alive, engines.values())):
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > NOTICE_S:
            _say(worker, f"EngineDeadError: EngineCore is gone, unnoticed for {NOTICE_S:g} s; its worker is ended\n")
            _end(worker)
        time.sleep(CHECK_S)
    for process in psutil.process_iter():
        # Also what was started since the last look.
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(WORKER) == _name(worker):
                child = identity(process.pid)
                family.setdefault(_name(child), child)
    for child in family.values():
        _end(child)


def record(folder: str, entry: dict[str, Any]) -> None:
    """Write `HOST-PID.json` with a process of this machine into a folder (path or URI)."""
    host = socket.gethostname()
    Storage.at(folder).write_json(f"{host}-{entry['pid']}.json", {"host": host, **entry})


def identity(pid: int) -> dict[str, Any]:
    """{pid, started}: what tells a process from a later one of the same number. Raises psutil.NoSuchProcess."""
    return {"pid": pid, "started": psutil.Process(pid).create_time()}


def is_alive(entry: dict[str, Any]) -> bool:
    """Whether the process of an `identity` runs on this machine."""
    try:
        process = psutil.Process(entry["pid"])
        same = abs(process.create_time() - entry["started"]) < 0.01
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_orphans(folder: str) -> list[int]:
    """End the recorded processes of this machine that are still alive; returns their pids and removes the records."""
    storage, ended = Storage.at(folder), []
    for name in storage.children(""):
        if not name.endswith(".json"):
            continue  # cut short by the death of its writer
        entry = json.loads(storage.read_text(name))
        if entry["host"] != socket.gethostname():
            continue
        if _end(entry):
            ended.append(entry["pid"])
        storage.fs.delete_file(storage.path(name))
    return ended


def _end(entry: dict[str, Any]) -> bool:
    """Kill a process; False if it had ended."""
    if not is_alive(entry):
        return False
    with suppress(ProcessLookupError):
        os.kill(entry["pid"], signal.SIGKILL)
    return True


def _say(worker: dict[str, Any], line: str) -> None:
    """Add a line to a worker's log, which is what the run shows of an engine that keeps dying."""
    with suppress(OSError), open(os.readlink(f"/proc/{worker['pid']}/fd/2"), "a") as log:
        log.write(line)


def _descendants(pid: int) -> list[dict[str, Any]]:
    children = psutil.Process(pid).children(recursive=True)
    return [{"pid": child.pid, "started": child.create_time()} for child in children if child.pid != os.getpid()]


def _title(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def _name(entry: dict[str, Any]) -> str:
    return f"{entry['pid']}-{entry['started']}"


if __name__ == "__main__":
    watch({"pid": int(sys.argv[1]), "started": float(sys.argv[2])}, sys.argv[3])
