"""Ownership of a run: its latest attempt owns it for as long as that is alive.

    with owned(run) as attempt: ...

Each attempt has up to three files:

- `attempts/NNNNN.json`: its host, process and command; never changed
- `attempts/NNNNN.beat.json`: its heartbeat, with the progress of its stages
- `attempts/NNNNN.ended.json`: why and in which stages it ended

A second start is refused while an attempt is alive, and takes over the run of a dead one. An old driver that wakes up
(from a suspended machine) finds a later attempt than its own, and stops before it publishes anything.

The first file is created by a conditional write, so that one of two starts at the same moment wins. On storage without
conditional writes the last one wins: every attempt has a token, which its owner reads again at each heartbeat and
before it publishes.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_ray.cluster.interrupt import interrupt
from tapir_ray.cluster.processes import identity, seen
from tapir_ray.data.atomic_files import sweep
from tapir_ray.data.storage import Storage, now
from tapir_ray.errors import InputError, StageError, Stopped, own_error, sentence
from tapir_ray.errors.redaction import redacted

FOLDER = "attempts"
BEAT_S = 5.0
SETTLE_S = 2.0
"""Seconds between a write without a condition and the check of its token, in which a competing write can arrive."""
PATIENCE_S = 3 * BEAT_S
"""Seconds without a heartbeat after which an owner on another machine is dead. Clocks of machines are not compared."""

Tell = Callable[[], list[dict[str, Any]]]
"""Function that returns the stages in progress (`progress.Progress.told`)."""


@dataclass(frozen=True)
class Owner:
    """The last attempt of a run, as stored; times are those of the clock of its machine."""

    attempt: int
    host: str
    user: str
    pid: int
    since: str
    command: str | None
    alive: bool
    heartbeat: str | None
    """Time of the last heartbeat."""
    stages: list[dict[str, Any]]
    """Stages in progress, or those in which the attempt ended."""
    ended: str | None
    """Time of its end; None if it is alive or was killed."""
    exit_status: int | None
    reason: str | None


@contextmanager
def owned(storage: Storage, tell: Tell = list) -> Iterator[int]:
    """Context manager of a new attempt, which owns the run until the exit. Gives the number of the attempt.

    `tell` is called at every heartbeat. Raises InputError that names the owner while another attempt is alive.
    """
    attempt = claim(storage)
    ended = threading.Event()
    # A thread, so that the heartbeat continues while the main thread waits for Ray.
    beat = threading.Thread(target=_beat, args=(storage, attempt, ended, tell), daemon=True, name="tapir-heartbeat")
    exit_status, reason = 0, None
    try:
        beat.start()  # in the try: a signal from here on leaves a record of the end
        yield attempt
    except BaseException as error:
        exit_status, reason = why_ended(error)
        raise
    finally:
        ended.set()
        if beat.is_alive():
            beat.join()
        end = {"time": now(), "exit_status": exit_status, "reason": reason, "stages": tell()}
        _write_end(storage, attempt, end)


def owner(storage: Storage) -> Owner | None:
    """Returns the last attempt of the run; None without one.

    Takes up to PATIENCE_S for an attempt on another machine without a record of its end, since only a new heartbeat
    shows that it is alive.
    """
    attempt = latest(storage)
    if not attempt:
        return None
    name = f"{FOLDER}/{attempt:05d}"
    alive = _alive(storage, attempt) is not None
    who, beat, end = (
        storage.find_json(file) or {} for file in (f"{name}.json", f"{name}.beat.json", f"{name}.ended.json")
    )
    return Owner(
        attempt,
        who.get("host", "?"),
        who.get("user", "?"),
        who.get("pid", 0),
        who.get("time", "?"),
        who.get("command"),
        alive,
        beat.get("time"),
        (end or beat).get("stages", []),
        end.get("time"),
        end.get("exit_status"),
        end.get("reason"),
    )


def _write_end(storage: Storage, attempt: int, end: dict[str, Any]) -> None:
    """Writes the end of an attempt, unless another attempt owns the run. An error of storage is logged, not raised."""
    name = f"{FOLDER}/{attempt:05d}"
    try:
        if not _is_mine(storage, attempt):
            return
        try:
            storage.write_json(f"{name}.ended.json", end)
        except OSError:
            # On a full disk, the space of the last heartbeat is enough for this file.
            storage.fs.delete_file(storage.path(f"{name}.beat.json"))
            storage.write_json(f"{name}.ended.json", end)
    except OSError as error:
        # The next start sees by the process or by its heartbeat that this attempt has ended. A second error here would
        # hide the one that ended the run.
        logging.getLogger(__name__).warning("the end of attempt %d could not be written: %s", attempt, error)


def why_ended(error: BaseException) -> tuple[int, str]:
    """Returns (exit status, reason) for an attempt that `error` ends."""
    own = own_error(error)
    if own is not None:
        return own.exit_status, sentence(own)
    if isinstance(error, KeyboardInterrupt):
        return Stopped.exit_status, "interrupted"
    return 1, f"{type(error).__name__}, an error that is not tapir's own: see the traceback in its output"


def _command() -> str:
    """Returns the command line of this process, without secrets."""
    name = Path(sys.argv[0]).name
    return redacted(shlex.join(["tapir" if name in ("tapir", "cli.py") else name, *sys.argv[1:]]))


def claim(storage: Storage) -> int:
    """Takes over the run with the next attempt number. Raises InputError while another attempt is alive."""
    # The number after the one that was checked, not after the latest: an attempt that came in between must not lose.
    attempt, token = refuse_second_owner(storage) + 1, uuid.uuid4().hex
    mine = {"host": socket.gethostname(), "user": getpass.getuser(), "token": token, "time": now()}
    mine |= {"command": _command(), **identity(os.getpid())}
    if not _create(storage, f"{FOLDER}/{attempt:05d}.json", mine):
        raise InputError(f"{storage.uri} was taken by another start at the same moment; use another --run-dir")
    storage.token = token
    # Only now, since before the claim another attempt may still be writing its files.
    sweep(storage.fs, storage.root, storage.path(f"{FOLDER}/{attempt:05d}.json"))
    return attempt


def _create(storage: Storage, name: str, content: dict[str, Any]) -> bool:
    """Creates an object that must not exist yet; returns False if another process has created it."""
    made = storage.create_json(name, content)
    if made is None:
        return _create_unconditionally(storage, name, content)
    # The store can be trusted, but a proxy before it may have repeated the request: the token shows whose object it is.
    return made and _token(storage, name) in (content["token"], None)


def _create_unconditionally(storage: Storage, name: str, content: dict[str, Any]) -> bool:
    """Creates an object on storage without conditional writes, which keeps the last of two writes.

    The process whose write arrives last reads its own token back and wins. A write that arrives even later ends the
    attempt of the other process, which then reads a token that is not its own (`check_owner`).
    """
    if _token(storage, name) not in (content["token"], None):
        return False
    logging.getLogger(__name__).warning(
        "%s has no conditional writes: if two start at the same moment, the first may stop a few seconds later",
        storage.uri,
    )
    storage.write_json(name, content)
    time.sleep(SETTLE_S)
    return _token(storage, name) == content["token"]


def _token(storage: Storage, name: str) -> str | None:
    """Returns the token of an attempt's object; None if it does not exist or cannot be read."""
    return (storage.find_json(name) or {}).get("token")


def refuse_second_owner(storage: Storage) -> int:
    """Returns the number of the last attempt, or 0. Raises InputError that names the owner while one is alive."""
    last = latest(storage)
    if last and (owner := _alive(storage, last)) is not None:
        raise InputError(
            f"{storage.uri} is in use by attempt {last}: process {owner.get('pid', '?')} of "
            f"{owner.get('user', '?')} on {owner.get('host', '?')}, since {owner.get('time', '?')}; stop it first, or "
            "use another --run-dir"
        )
    return last


def latest(storage: Storage) -> int:
    """Returns the highest attempt number; 0 without attempts."""
    names = (name.removesuffix(".json") for name in storage.children(FOLDER))
    return max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)


def check_owner(storage: Storage, attempt: int) -> None:
    """Raises StageError if another attempt owns the run. The attempt 0, of a run that is only read, is not checked."""
    if attempt and (problem := _overtaken_by(storage, attempt)):
        raise StageError(problem)


def _overtaken_by(storage: Storage, attempt: int) -> str:
    """Returns a message about another owner of the run; "" while this attempt owns it."""
    if (last := latest(storage)) > attempt:
        return f"attempt {attempt} of this run was overtaken by attempt {last}; this process must stop"
    if not _is_mine(storage, attempt):
        return f"attempt {attempt} of this run belongs to another start at the same moment; this process must stop"
    return ""


def _is_mine(storage: Storage, attempt: int) -> bool:
    """Whether this process has created the attempt's object. An object that cannot be read counts as its own."""
    return not storage.token or _token(storage, f"{FOLDER}/{attempt:05d}.json") in (storage.token, None)


def _alive(storage: Storage, attempt: int) -> dict[str, Any] | None:
    """Returns the object of an attempt that is alive, by its process if that is visible, else by its heartbeat."""
    name = f"{FOLDER}/{attempt:05d}"
    if storage.find_json(f"{name}.ended.json") is not None:
        return None
    owner = storage.find_json(f"{name}.json") or {}
    if (alive := seen(owner) if owner else None) is not None:
        return owner if alive else None
    # Counts at most two steps of each sleep: if this machine was suspended meanwhile, the owner could not be seen.
    first, waited, step = _beats(storage, attempt), 0.0, BEAT_S / 5
    while waited < PATIENCE_S:
        before = time.monotonic()
        time.sleep(step)
        last = _beats(storage, attempt)
        if last is not None and last != first:
            return owner
        waited += min(time.monotonic() - before, 2 * step)
    return None


def _beats(storage: Storage, attempt: int) -> int | None:
    """Returns the number of an attempt's last heartbeat; None without a readable one."""
    found = (storage.find_json(f"{FOLDER}/{attempt:05d}.beat.json") or {}).get("beat")
    return found if isinstance(found, int) else None


def _beat(storage: Storage, attempt: int, ended: threading.Event, tell: Tell) -> None:
    number, log = 0, logging.getLogger(__name__)
    while True:
        try:
            # Checked first: a process that was suspended and overtaken must not write any more.
            if problem := _overtaken_by(storage, attempt):
                interrupt(StageError(problem))
                return
            beat = {"beat": number, "time": now(), "stages": tell()}
            storage.write_text(f"{FOLDER}/{attempt:05d}.beat.json", json.dumps(beat))
        except Exception as error:  # storage may fail for a moment; the next heartbeat tries again
            log.debug("heartbeat %d of attempt %d: %s", number, attempt, error)
        number += 1
        if ended.wait(BEAT_S):
            return
