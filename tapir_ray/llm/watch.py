"""Engine processes that die with the process that started them, and the record of those that might not.

vLLM loads `watch_parent` as a plugin (`vllm.general_plugins`) in every process of an engine. A killed Ray worker would
otherwise leave the engine's own processes behind, with the memory they hold.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import psutil

PROCESSES = "TAPIR_ENGINE_PROCESSES"
"""Environment variable that turns the watch on: the folder (path or URI) where the engine's processes are recorded."""
CHECK_S = 0.5

_watching = threading.Lock()


def watch_parent() -> None:
    """Record this process and end it as soon as its parent is gone; does nothing outside a run's engine."""
    folder = os.environ.get(PROCESSES)
    if folder is None or not _watching.acquire(blocking=False):
        return
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent, folder), daemon=True, name="tapir-parent-watch").start()


def _watch(parent: int, folder: str) -> None:
    # The parent of a process that multiprocessing spawned may have died before this one had imported vLLM.
    spawner = multiprocessing.parent_process()
    with suppress(OSError):  # the record is the second line of defence; the engine must not end for it
        record(folder)
    while os.getppid() == parent and (spawner is None or spawner.is_alive()):
        time.sleep(CHECK_S)
    os.kill(os.getpid(), signal.SIGKILL)


def record(folder: str) -> None:
    """Write `HOST-PID.json` with this process's start time into a folder (path or URI).

    Beside it whether it is the worker of Ray that holds the engine, its node and the file that its errors go to.
    """
    import ray

    from tapir_ray.storage import Storage

    worker = ray.is_initialized()
    entry = {
        "host": socket.gethostname(),
        **identity(os.getpid()),
        "worker": worker,
        "node": ray.get_runtime_context().get_node_id() if worker else None,
        "log": os.readlink("/proc/self/fd/2"),
    }
    Storage.at(folder).write_json(f"{entry['host']}-{entry['pid']}.json", entry)


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
    from tapir_ray.storage import Storage

    storage, ended = Storage.at(folder), []
    for name in storage.children(""):
        entry = json.loads(storage.read_text(name))
        if entry["host"] != socket.gethostname():
            continue
        if is_alive(entry):
            os.kill(entry["pid"], signal.SIGKILL)
            ended.append(entry["pid"])
        storage.fs.delete_file(storage.path(name))
    return ended
