"""Ends the processes of an engine with their worker, and records them so that the next start can end orphans.

    python -m tapir_ray.llm.engine.watchdog PID STARTED FOLDER         # the watcher of one worker; ends with it

vLLM loads `watch_engine` as a plugin (`vllm.general_plugins`) in the Ray worker of an engine. Without a watcher, a
killed worker leaves the engine's processes and their memory behind; those that are just starting wait minutes for it.
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

from tapir_ray.cluster.processes import identity, is_alive, place, seen
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError

PROCESSES = "TAPIR_ENGINE_PROCESSES"
"""Environment variable that turns the watcher on: the folder (path or URI) for records of the engine's processes."""
WORKER = "TAPIR_ENGINE_WORKER"
"""Environment variable with the worker as `PID-STARTED`. The processes of its engine are found by it."""
ENGINE_CORE = "EngineCore"
"""Part of the title of an engine's main process, which runs the model."""
CHECK_S, NOTICE_S = 0.5, 15.0
"""Seconds between two looks of a watcher, and seconds for a worker to notice that its engine is dead."""


def watch_engine() -> None:
    """Records this worker and starts its watcher. Does nothing outside a run, and in other processes of the engine."""
    folder = os.environ.get(PROCESSES)
    if folder is None or WORKER in os.environ:
        return
    me = identity(os.getpid())
    os.environ[WORKER] = _name(me)
    command = [sys.executable, "-m", "tapir_ray.llm.engine.watchdog", str(me["pid"]), json.dumps(me["started"]), folder]
    quiet = subprocess.DEVNULL
    # A session of its own, so that signals to the worker's process group do not end the watcher.
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
    with suppress(OSError, InputError):  # the record is only the second line of defence: a failed write ends no engine
        record(folder, {**me, "worker": True, "node": node, "log": os.readlink("/proc/self/fd/2")})


def watch(worker: dict[str, Any], folder: str) -> None:
    """Records the processes of a worker's engine while the worker lives, then kills those that are left.

    `worker` is an `identity`. A process counts as dead only if it was seen to have ended: an error while looking kills
    nothing.

    A worker whose engine has died ends itself, so that Ray starts another. Sometimes it does not notice and would wait
    for answers for ever; then it is killed after NOTICE_S.
    """
    family: dict[str, dict[str, Any]] = {}
    engines: dict[str, dict[str, Any]] = {}
    last_seen = time.monotonic()
    while seen(worker) is not False:
        with suppress(psutil.Error, OSError, InputError):
            for child in _descendants(worker["pid"]):
                if _name(child) in family and "recorded" not in family[_name(child)]:
                    family[_name(child)]["recorded"] = True
                    record(folder, {**child, "worker": False})
                family.setdefault(_name(child), child)
                if ENGINE_CORE in _title(child["pid"]):
                    engines[_name(child)] = child
        if not engines or any(seen(engine) is not False for engine in engines.values()):
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > NOTICE_S:
            _log(worker, f"EngineDeadError: EngineCore ended {NOTICE_S:g} s ago without notice; its worker is killed\n")
            _end(worker)
        time.sleep(CHECK_S)
    for process in psutil.process_iter():
        # Processes that were started since the last look: they have inherited the variable.
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(WORKER) == _name(worker):
                child = identity(process.pid)
                family.setdefault(_name(child), child)
    for child in family.values():
        _end(child)


def record(folder: str, entry: dict[str, Any]) -> None:
    """Writes the record `HOST-PID.json` of a process on this machine to a folder (path or URI)."""
    host = socket.gethostname()
    Storage.at(folder).write_json(f"{host}-{entry['pid']}.json", {"host": host, **entry})


def end_orphans(folder: str) -> list[int]:
    """Kills recorded processes of this machine that are still alive and deletes the records. Returns their pids."""
    storage, ended = Storage.at(folder), []
    for name in storage.children(""):
        entry = storage.find_json(name) if name.endswith(".json") else None
        # Processes in another container or on another machine cannot be seen here; a start over there ends them.
        if entry is None or entry.get("host") != socket.gethostname() or ("boot" in entry and seen(entry) is None):
            continue
        if _end(entry):
            ended.append(entry["pid"])
        storage.fs.delete_file(storage.path(name))
    return ended


def _end(entry: dict[str, Any]) -> bool:
    """Kills a process; returns False if it has already ended."""
    if not is_alive(entry):
        return False
    with suppress(ProcessLookupError):
        os.kill(entry["pid"], signal.SIGKILL)
    return True


def _log(worker: dict[str, Any], line: str) -> None:
    """Adds a line to a worker's log. The run shows the end of this log if an engine dies again and again."""
    with suppress(OSError), open(os.readlink(f"/proc/{worker['pid']}/fd/2"), "a") as log:
        log.write(line)


def _descendants(pid: int) -> list[dict[str, Any]]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.pid != os.getpid():
                found.append(identity(child.pid))
    return found


def _title(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def _name(entry: dict[str, Any]) -> str:
    return f"{entry['pid']}-{entry['started']}"


if __name__ == "__main__":
    watch({"pid": int(sys.argv[1]), "started": json.loads(sys.argv[2]), **place()}, sys.argv[3])
