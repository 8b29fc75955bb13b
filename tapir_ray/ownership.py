"""Who works on a run: its latest attempt, for as long as that is alive.

    with owned(run) as attempt: ...

An attempt is an immutable object `attempts/NNNNN.json` with its host and process, beside it a heartbeat. A second start
while one is alive is refused; a dead one is taken over. An old driver that wakes up finds a later attempt than its own
and stops before it publishes anything.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from tapir_ray.errors import InputError, StageError
from tapir_ray.interrupt import interrupt
from tapir_ray.llm.watch import identity, is_alive
from tapir_ray.storage import Storage, now

FOLDER = "attempts"
BEAT_S = 5.0
SETTLE_S = 2.0
PATIENCE_S = 3 * BEAT_S
"""An owner on another machine that does not beat for so long is dead. Its clock is never compared with ours."""


@contextmanager
def owned(storage: Storage) -> Iterator[int]:
    """The number of a new attempt, which owns the run until the context ends.

    Raises InputError, naming the owner, while another attempt is alive.
    """
    attempt = claim(storage)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(storage, attempt, ended), daemon=True, name="tapir-heartbeat")
    beat.start()
    try:
        yield attempt
    finally:
        ended.set()
        beat.join()
        storage.write_json(f"{FOLDER}/{attempt:05d}.ended.json", {"time": now()})


def claim(storage: Storage) -> int:
    """Take over the run with the next attempt number. Raises InputError while another attempt is alive."""
    # The next after the one that was looked at: who came in between is not passed over.
    attempt, token = refuse_beside_another(storage) + 1, uuid.uuid4().hex
    mine = {"host": socket.gethostname(), "user": getpass.getuser(), "token": token, "time": now()}
    mine |= identity(os.getpid())
    if not _create(storage, f"{FOLDER}/{attempt:05d}.json", mine):
        raise InputError(f"{storage.uri} was taken by another start in the same moment")
    return attempt


def _create(storage: Storage, name: str, content: dict[str, Any]) -> bool:
    """Write an object that must not be there yet; False if another process has made it."""
    if isinstance(storage.fs, pafs.LocalFileSystem):
        part, place = f"{name}.{content['token']}", storage.path(name)
        storage.write_json(part, content)
        try:
            os.link(storage.path(part), place)
        except FileExistsError:
            return False
        except OSError:  # a shared folder without hard links
            return _copy_new(storage.path(part), place)
        finally:
            os.unlink(storage.path(part))
        return True
    if storage.exists(name):
        return False
    # An object store keeps what was written last. Who looked before the other wrote has written by then.
    storage.write_json(name, content)
    time.sleep(SETTLE_S)
    return bool(storage.read_json(name)["token"] == content["token"])


def _copy_new(source: str, target: str) -> bool:
    try:
        with open(target, "xb") as file:
            file.write(Path(source).read_bytes())
    except FileExistsError:
        return False
    return True


def refuse_beside_another(storage: Storage) -> int:
    """The last attempt, which is dead, or 0. Raises InputError, naming the owner, while one is alive."""
    last = latest(storage)
    if last and (owner := _alive(storage, last)):
        raise InputError(
            f"{storage.uri} is being worked on by attempt {last}: process {owner['pid']} of {owner['user']} on "
            f"{owner['host']}, since {owner['time']}; stop that one first, or use another --run-dir"
        )
    return last


def latest(storage: Storage) -> int:
    """The highest attempt number; 0 where there is none."""
    names = (name.removesuffix(".json") for name in storage.children(FOLDER))
    return max((int(name) for name in names if name.isdigit()), default=0)


def check_owner(storage: Storage, attempt: int) -> None:
    """Raises StageError if a later attempt than this one owns the run; an `attempt` of 0 is not checked."""
    if attempt and (last := latest(storage)) > attempt:
        raise StageError(_overtaken(attempt, last))


def _overtaken(attempt: int, last: int) -> str:
    return f"attempt {attempt} of this run was overtaken by attempt {last}; this process must stop"


def _alive(storage: Storage, attempt: int) -> dict[str, Any] | None:
    name = f"{FOLDER}/{attempt:05d}"
    if storage.exists(f"{name}.ended.json"):
        return None
    owner: dict[str, Any] = storage.read_json(f"{name}.json")
    if owner["host"] == socket.gethostname():
        return owner if is_alive(owner) else None
    first, deadline = _beats(storage, attempt), time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        time.sleep(BEAT_S / 5)
        if _beats(storage, attempt) != first:
            return owner
    return None


def _beats(storage: Storage, attempt: int) -> str:
    name = f"{FOLDER}/{attempt:05d}.beat.json"
    return storage.read_text(name) if storage.exists(name) else ""


def _beat(storage: Storage, attempt: int, ended: threading.Event) -> None:
    number = 0
    while True:
        with suppress(OSError):  # storage that fails for a moment must not end the run; the next beat tries again
            storage.write_text(f"{FOLDER}/{attempt:05d}.beat.json", json.dumps({"beat": number, "time": now()}))
            if (last := latest(storage)) > attempt:
                interrupt(StageError(_overtaken(attempt, last)))
                return
        number += 1
        if ended.wait(BEAT_S):
            return
