"""Who works on a run: its latest attempt, for as long as that is alive.

    with owned(run) as attempt: ...

An attempt is an immutable object `attempts/NNNNN.json` with its host, process and command, beside it a heartbeat, which
also says how far its stages are, and at last `NNNNN.ended.json`: why it ended, and where. A second start while one is
alive is refused; a dead one is taken over. An old driver that wakes up finds a later attempt than its own and stops
before it publishes anything.
"""

from __future__ import annotations

import getpass
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from tapir_ray.errors import InputError, StageError, Stopped, own_error, sentence
from tapir_ray.interrupt import interrupt
from tapir_ray.llm.watch import identity, is_alive
from tapir_ray.redaction import redacted
from tapir_ray.storage import Storage, now

FOLDER = "attempts"
BEAT_S = 5.0
SETTLE_S = 2.0
PATIENCE_S = 3 * BEAT_S
"""An owner on another machine that does not beat for so long is dead. Its clock is never compared with ours."""


Tell = Callable[[], list[dict[str, Any]]]
"""Gives the stages that are under way (`progress.Progress.told`)."""


@dataclass(frozen=True)
class Owner:
    """The last attempt at a run, as its storage shows it; times are those of its own clock."""

    attempt: int
    host: str
    user: str
    pid: int
    since: str
    command: str | None
    alive: bool
    heartbeat: str | None
    """Time of the last one."""
    stages: list[dict[str, Any]]
    """Under way, or those in which it ended."""
    ended: str | None
    """When it ended; None where it is alive or was killed."""
    exit_status: int | None
    reason: str | None


@contextmanager
def owned(storage: Storage, tell: Tell = list) -> Iterator[int]:
    """The number of a new attempt, which owns the run until the context ends; `tell` is asked at every heartbeat.

    Raises InputError, naming the owner, while another attempt is alive.
    """
    attempt = claim(storage)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(storage, attempt, ended, tell), daemon=True, name="tapir-heartbeat")
    beat.start()
    exit_status, reason = 0, None
    try:
        yield attempt
    except BaseException as error:
        exit_status, reason = _why(error)
        raise
    finally:
        ended.set()
        beat.join()
        end = {"time": now(), "exit_status": exit_status, "reason": reason, "stages": tell()}
        storage.write_json(f"{FOLDER}/{attempt:05d}.ended.json", end)


def owner(storage: Storage) -> Owner | None:
    """Who works on the run, or did last; None where nobody has.

    Of an attempt on another machine, which storage does not show to have ended, a heartbeat is waited for: PATIENCE_S.
    """
    attempt = latest(storage)
    if not attempt:
        return None
    name = f"{FOLDER}/{attempt:05d}"
    alive = _alive(storage, attempt) is not None
    who, beat, end = (
        storage.read_json(file) if storage.exists(file) else {}
        for file in (f"{name}.json", f"{name}.beat.json", f"{name}.ended.json")
    )
    return Owner(
        attempt,
        who["host"],
        who["user"],
        who["pid"],
        who["time"],
        who.get("command"),
        alive,
        beat.get("time"),
        (end or beat).get("stages", []),
        end.get("time"),
        end.get("exit_status"),
        end.get("reason"),
    )


def _why(error: BaseException) -> tuple[int, str]:
    """(exit status, reason) of an attempt that an error ends."""
    own = own_error(error)
    if own is not None:
        return own.exit_status, sentence(own)
    if isinstance(error, KeyboardInterrupt):
        return Stopped.exit_status, "interrupted"
    return 1, f"{type(error).__name__}, an error that is not tapir's own: its output says more"


def _command() -> str:
    """How this process was called."""
    name = Path(sys.argv[0]).name
    return redacted(shlex.join(["tapir" if name in ("tapir", "cli.py") else name, *sys.argv[1:]]))


def claim(storage: Storage) -> int:
    """Take over the run with the next attempt number. Raises InputError while another attempt is alive."""
    # The next after the one that was looked at: who came in between is not passed over.
    attempt, token = refuse_beside_another(storage) + 1, uuid.uuid4().hex
    mine = {"host": socket.gethostname(), "user": getpass.getuser(), "token": token, "time": now()}
    mine |= {"command": _command(), **identity(os.getpid())}
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


def _beat(storage: Storage, attempt: int, ended: threading.Event, tell: Tell) -> None:
    number = 0
    while True:
        with suppress(OSError):  # storage that fails for a moment must not end the run; the next beat tries again
            said = {"beat": number, "time": now(), "stages": tell()}
            storage.write_text(f"{FOLDER}/{attempt:05d}.beat.json", json.dumps(said))
            if (last := latest(storage)) > attempt:
                interrupt(StageError(_overtaken(attempt, last)))
                return
        number += 1
        if ended.wait(BEAT_S):
            return
