"""Creates folders that no other user of this machine can write to, for Ray's files and for copies of models.

    private_folder()                       # /tmp/tapir-1000, mode 0700, in TMPDIR if that is set
    trusted(Path("/scratch/models"), "TAPIR_MODELS")       # a folder named by the user: created 0700, or checked

Names under a shared /tmp can be guessed, so another user can create a folder or a link there first. An existing entry
is checked before use.
"""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from pathlib import Path

from tapir_ray.errors import InputError

PRIVATE = 0o700
OTHERS, OTHERS_WRITE = 0o077, 0o022
"""Mode bits with any permission of group and others, and those with their write permission."""


def private_folder(base: str | None = None) -> Path:
    """The folder `tapir-UID` of this user in `base` (default: the folder for temporary files), with mode 0700.

    Raises InputError if it is a link or a file, belongs to another user, or is writable by one.
    """
    folder = Path(base or tempfile.gettempdir()) / f"tapir-{os.geteuid()}"
    advice = "set TMPDIR to a folder of your own"
    _create(folder, advice)
    # Not `stat`, which would follow a link.
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise InputError(f"{folder} is a link, which another user may have made: remove it, or {advice}")
    _check(folder, found, f"remove it, or {advice}")
    if found.st_mode & OTHERS:
        # Readable, as an earlier tool left it. It is ours and nobody else could write to it, so closing it is enough.
        folder.chmod(PRIVATE)
    return folder


def trusted(folder: Path, name: str) -> Path:
    """Returns a folder chosen by the user in the setting `name`, after creating it with mode 0700 if it is missing.

    Other users may be able to read an existing one. Raises InputError if it belongs to another user, or if others can
    write to it: they could replace a model between its copy and its use.
    """
    advice = f"set {name} to a folder in it that does not exist yet, which is then created for you alone"
    _create(folder, f"set {name} to a folder that you can write to", parents=True)
    if folder.is_symlink() and folder.lstat().st_uid not in (0, os.geteuid()):
        raise InputError(f"{name} {folder} is a link that {_user(folder.lstat().st_uid)} made: name a folder of yours")
    _check(folder, folder.stat(), advice, f"{name} ")
    return folder


def _create(folder: Path, advice: str, parents: bool = False) -> None:
    try:
        if parents:
            folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(PRIVATE)
    except FileExistsError:
        return
    except OSError as error:
        raise InputError(f"{folder} cannot be created ({error.strerror}): {advice}") from error


def _check(folder: Path, found: os.stat_result, advice: str, name: str = "") -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{name}{folder} is not a folder: {advice}")
    if found.st_uid != os.geteuid():
        raise InputError(f"{name}{folder} belongs to {_user(found.st_uid)}: {advice}")
    if found.st_mode & OTHERS_WRITE:
        mode = stat.S_IMODE(found.st_mode)
        raise InputError(f"{name}{folder} can be written by other users (mode {mode:04o}): {advice}")


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
