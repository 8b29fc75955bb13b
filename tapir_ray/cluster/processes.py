"""Identifies processes uniquely, even after a change of the clock and from another container.

    me = identity(os.getpid())            # {"pid", "started", "boot", "pid_namespace"}
    seen({"host": host, **me})            # True, False, or None if it cannot be seen from here

Linux records the start of a process in ticks since boot, which setting the clock does not change. A process id is
meaningful only within one boot and one pid namespace, so both are part of the identity. On machines without /proc the
start time is used instead.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import psutil

PROC = Path("/proc")
_STATE, _STARTED = 0, 19
"""Indices in /proc/PID/stat after the name in brackets, of fields 3 (state) and 22 (start, in ticks since boot)."""
SAME_START_S = 0.01
"""Largest difference of two equal start times in seconds, on machines without /proc."""


def identity(pid: int) -> dict[str, Any]:
    """{pid, started, boot, pid_namespace} of a process on this machine.

    `boot` and `pid_namespace` are None on machines without /proc. Raises psutil.NoSuchProcess.
    """
    return {"pid": pid, "started": _started(pid), **place()}


def place() -> dict[str, Any]:
    """{boot, pid_namespace} of this process; a process id has the same meaning only where both are equal."""
    try:
        boot: str | None = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace: str | None = os.readlink(PROC / "self/ns/pid")
    except OSError:
        boot = namespace = None
    return {"boot": boot, "pid_namespace": namespace}


def seen(entry: dict[str, Any]) -> bool | None:
    """Returns whether the process of an `identity` runs; None if this process cannot tell.

    It cannot tell for another host, boot or pid namespace, for a process that the system hides from this user, and for
    an entry without these fields.
    """
    if entry.get("host", socket.gethostname()) != socket.gethostname():
        return None
    here = place()
    whole = isinstance(entry.get("pid"), int) and "started" in entry
    if not whole or any(entry.get(name) != here[name] for name in here):
        return None
    try:
        started, ended = _started(entry["pid"]), _is_zombie(entry["pid"])
    except psutil.NoSuchProcess:
        return None if _is_hidden(entry["pid"]) else False
    except (OSError, ValueError, psutil.Error):
        return None
    same = started == entry["started"] if here["boot"] else abs(started - entry["started"]) < SAME_START_S
    return same and not ended


def is_alive(entry: dict[str, Any]) -> bool:
    """Returns whether the process of an `identity` certainly runs on this machine."""
    return seen(entry) is True


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may itself contain blanks and brackets."""
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise psutil.NoSuchProcess(pid) from error


def _started(pid: int) -> float:
    return int(_stat(pid)[_STARTED]) if _has_proc() else psutil.Process(pid).create_time()


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[_STATE] in "ZX" if _has_proc() else psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _has_proc() -> bool:
    return (PROC / "self/stat").exists()


def _is_hidden(pid: int) -> bool:
    """Returns whether a process of another user has this id, which a /proc mounted with `hidepid` does not show."""
    try:
        os.kill(pid, 0)  # sends nothing, but checks existence and permission
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        pass
    return False
