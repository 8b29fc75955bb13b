"""Engine processes that die with their worker, and the record of those that might not.

    python -m tapir_ray.llm.engine.watchdog PID STARTED FOLDER         # the watcher of one worker; ends with it

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

from tapir_ray.cluster.processes import identity, is_alive, place, seen
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError

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
    command = [sys.executable, "-m", "tapir_ray.llm.engine.watchdog", str(me["pid"]), json.dumps(me["started"]), folder]
    quiet = subprocess.DEVNULL
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
    with suppress(OSError, InputError):  # the record is the second line of defence; the engine must not end for it
        record(folder, {**me, "worker": True, "node": node, "log": os.readlink("/proc/self/fd/2")})


def watch(worker: dict[str, Any], folder: str) -> None:
    """Wait for the end of a worker (an `identity`), then end what its engine has left; record it while it lives.

    Only what is seen to have ended counts as dead: whatever keeps the watcher from looking ends nothing.

    A worker whose engine has died ends itself, so that Ray starts another. Now and then it misses the death and would
    wait for answers for ever: it is ended after NOTICE_S.
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


def end_orphans(folder: str) -> list[int]:
    """End the recorded processes of this machine that are still alive; returns their pids and removes the records."""
    storage, ended = Storage.at(folder), []
    for name in storage.children(""):
        entry = storage.find_json(name) if name.endswith(".json") else None
        # What cannot be seen from here belongs to the machine or container that can.
        if entry is None or entry.get("host") != socket.gethostname() or ("boot" in entry and seen(entry) is None):
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
