"""Who works on a run: its latest attempt, for as long as that is alive.

    with owned(run) as attempt: ...

An attempt is an immutable object `attempts/NNNNN.json` with its host, process and command, beside it a heartbeat, which
also says how far its stages are, and at last `NNNNN.ended.json`: why it ended, and where. A second start while one is
alive is refused; a dead one is taken over. An old driver that wakes up finds a later attempt than its own and stops
before it publishes anything.

The object is made by a conditional write, so of two starts at the same moment one wins. On storage without such writes
the last one wins: every attempt has a token, which its owner reads again at each heartbeat and before it publishes.
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
"""After a write without a condition: the time that one under way is given to arrive before the token is read back."""
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
        exit_status, reason = why_ended(error)
        raise
    finally:
        ended.set()
        beat.join()
        end = {"time": now(), "exit_status": exit_status, "reason": reason, "stages": tell()}
        _write_end(storage, attempt, end)


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
    """Write why and where an attempt ended, unless it is another's; storage that fails does not hide its error."""
    name = f"{FOLDER}/{attempt:05d}"
    try:
        if not _is_mine(storage, attempt):
            return
        try:
            storage.write_json(f"{name}.ended.json", end)
        except OSError:
            # On a full disk the room of the last heartbeat is enough.
            storage.fs.delete_file(storage.path(f"{name}.beat.json"))
            storage.write_json(f"{name}.ended.json", end)
    except OSError as error:
        # The next start sees by the process or its heartbeat that we are gone.
        logging.getLogger(__name__).warning("the end of attempt %d is not on storage: %s", attempt, error)


def why_ended(error: BaseException) -> tuple[int, str]:
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
    storage.token = token
    sweep(storage.fs, storage.root, storage.path(f"{FOLDER}/{attempt:05d}.json"))
    return attempt


def _create(storage: Storage, name: str, content: dict[str, Any]) -> bool:
    """Write an object that must not be there yet; False if another process has made it."""
    made = storage.create_json(name, content)
    if made is None:
        return _create_unconditionally(storage, name, content)
    # What the store says is not doubted, but a proxy before it may have answered.
    return made and _token(storage, name) in (content["token"], None)


def _create_unconditionally(storage: Storage, name: str, content: dict[str, Any]) -> bool:
    """`_create` on storage without conditional writes, which keeps what arrives last.

    Of two that write at the same moment the later one reads its token back. A write that arrives after that ends the
    attempt of whoever reads another token than its own from then on (`check_owner`).
    """
    if _token(storage, name) not in (content["token"], None):
        return False
    logging.getLogger(__name__).warning(
        "%s has no conditional writes: of two starts at the same moment the first may stop a few seconds later",
        storage.uri,
    )
    storage.write_json(name, content)
    time.sleep(SETTLE_S)
    return _token(storage, name) == content["token"]


def _token(storage: Storage, name: str) -> str | None:
    """The token of an attempt's object; None if it is not there or cannot be read."""
    return (storage.find_json(name) or {}).get("token")


def refuse_beside_another(storage: Storage) -> int:
    """The last attempt, which is dead, or 0. Raises InputError, naming the owner, while one is alive."""
    last = latest(storage)
    if last and (owner := _alive(storage, last)) is not None:
        raise InputError(
            f"{storage.uri} is being worked on by attempt {last}: process {owner.get('pid', '?')} of "
            f"{owner.get('user', '?')} on {owner.get('host', '?')}, since {owner.get('time', '?')}; stop that one "
            "first, or use another --run-dir"
        )
    return last


def latest(storage: Storage) -> int:
    """The highest attempt number; 0 where there is none."""
    names = (name.removesuffix(".json") for name in storage.children(FOLDER))
    return max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)


def check_owner(storage: Storage, attempt: int) -> None:
    """Raises StageError if another attempt than this one owns the run; an `attempt` of 0 is not checked."""
    if attempt and (problem := _overtaken_by(storage, attempt)):
        raise StageError(problem)


def _overtaken_by(storage: Storage, attempt: int) -> str:
    """Who owns the run in the place of this attempt, as a sentence; "" while nobody does."""
    if (last := latest(storage)) > attempt:
        return f"attempt {attempt} of this run was overtaken by attempt {last}; this process must stop"
    if not _is_mine(storage, attempt):
        return f"attempt {attempt} of this run is that of another start at the same moment; this process must stop"
    return ""


def _is_mine(storage: Storage, attempt: int) -> bool:
    """Whether the attempt's object is the one that this process has made, as far as it can be read."""
    return not storage.token or _token(storage, f"{FOLDER}/{attempt:05d}.json") in (storage.token, None)


def _alive(storage: Storage, attempt: int) -> dict[str, Any] | None:
    """The owner's object if it is alive, by its process where that can be seen and else by its heartbeat."""
    name = f"{FOLDER}/{attempt:05d}"
    if storage.find_json(f"{name}.ended.json") is not None:
        return None
    owner = storage.find_json(f"{name}.json") or {}
    if (alive := seen(owner) if owner else None) is not None:
        return owner if alive else None
    # Time counts only as far as we look: whoever is suspended or stopped here has not waited in vain.
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
    """The number of an attempt's last heartbeat; None without one that can be read."""
    found = (storage.find_json(f"{FOLDER}/{attempt:05d}.beat.json") or {}).get("beat")
    return found if isinstance(found, int) else None


def _beat(storage: Storage, attempt: int, ended: threading.Event, tell: Tell) -> None:
    number, log = 0, logging.getLogger(__name__)
    while True:
        try:
            # Looked at first: whoever was suspended and overtaken meanwhile writes nothing more.
            if problem := _overtaken_by(storage, attempt):
                interrupt(StageError(problem))
                return
            beat = {"beat": number, "time": now(), "stages": tell()}
            storage.write_text(f"{FOLDER}/{attempt:05d}.beat.json", json.dumps(beat))
        except Exception as error:  # storage that fails for a moment must not end the beats; the next tries again
            log.debug("heartbeat %d of attempt %d: %s", number, attempt, error)
        number += 1
        if ended.wait(BEAT_S):
            return
