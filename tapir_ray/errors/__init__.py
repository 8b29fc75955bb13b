"""Errors for users, each with the exit status of the command that it ends."""

from __future__ import annotations

import errno
import os
import re

from tapir_ray.errors.redaction import redacted

RAYS_ADVICE = "\nFailed to apply UDF transform"
"""Start of the text that Ray Data appends to an error of a pipeline; of no use to a user."""


def last_line(error: BaseException) -> str:
    """The last line of an error's text: its message, if the text contains the traceback of another process."""
    lines = [line for line in redacted(str(error)).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


class TapirError(Exception):
    """Base of every error that tapir-ray raises on purpose; its text says what to change."""

    exit_status = 1

    def __str__(self) -> str:
        """The redacted text: it may quote an error of a library that repeats a key."""
        return redacted(super().__str__())


class InputError(TapirError):
    """Bad config or input, found before anything was spent (exit 2)."""

    exit_status = 2


class StageError(TapirError):
    """A stage could not be completed, e.g. too many failed rows (exit 1)."""


class Reached(TapirError):
    """The stage of `--until` is complete (exit 0)."""

    exit_status = 0


class Stopped(TapirError):
    """A clean, resumable stop by a budget or a signal (exit 3)."""

    exit_status = 3


NO_SPACE = {errno.ENOSPC: "no space is left", errno.EDQUOT: "the quota is used up"}
_NO_SPACE_TEXT = re.compile(
    r"No space left on device|os error 28\b|\[Errno 28\]|XMinioStorageFull|OutOfDiskError|"
    # torch, for a checkpoint that could not be written completely.
    r"PytorchStreamWriter failed writing|inline_container\.cc:\d+\] \. unexpected pos"
)
_NO_QUOTA_TEXT = re.compile(r"Disk quota exceeded|os error 122\b|\[Errno 122\]")
_FILE = re.compile(r"\[Errno (?:28|122)\][^\n]*?: '([^'\n]+)'")
_TORN = re.compile(r"Parquet magic bytes not found|Parquet file size is \d+ bytes|Couldn't deserialize thrift")
_OF_TABLE = re.compile(r"[^\s'\"]*/(?:rows|part)-[^\s'\"/]*\.parquet")
"""A file of a table of a run. Torn files of the user's own are reported by their readers."""


def own_error(error: BaseException | None) -> TapirError | None:
    """The TapirError to show for an error, or None.

    It is `error` itself, or a TapirError that Ray has wrapped as the error of a task, or a new one if the cause is a
    full disk or a torn table.
    """
    first = error
    # Ray keeps the original error of a task in `cause`; Python keeps that of `raise … from` in `__cause__`.
    while error is not None:
        wrapped = getattr(error, "cause", None)
        if isinstance(error, TapirError) and wrapped is None:
            return error
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__
    return full_disk(first) or torn_table(first)


def full_disk(error: BaseException | None) -> StageError | None:
    """The error for a full disk or a used-up quota, in this process or a worker; None for any other cause."""
    while error is not None:
        text, number = str(error), getattr(error, "errno", None)
        what = NO_SPACE.get(number) if isinstance(error, OSError) and number is not None else None
        # Errors of Ray, torch and object stores have no errno, only a text.
        if what is None and not isinstance(error, TapirError):
            number = errno.EDQUOT if _NO_QUOTA_TEXT.search(text) else errno.ENOSPC if _NO_SPACE_TEXT.search(text) else 0
            what = NO_SPACE.get(number)
        if what is not None:
            file = getattr(error, "filename", None) or next(iter(_FILE.findall(text)[-1:]), None)
            folder = os.path.dirname(str(file)) if file else "the folder of the run, or of temporary files (TMPDIR)"
            return StageError(f"{what} in {folder}: free some space there and start the same command again to continue")
        wrapped = getattr(error, "cause", None)
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__
    return None


def torn_table(error: BaseException | None) -> StageError | None:
    """The error for an empty or truncated Parquet file of a finished table; None for any other cause."""
    while error is not None:
        text = str(error)
        files = _OF_TABLE.findall(text)
        if files and not isinstance(error, TapirError) and _TORN.search(text):
            return StageError(
                f"{files[-1]} is empty or torn: remove the _manifest.json in its folder and start the same command "
                "again to make only the lost rows again"
            )
        wrapped = getattr(error, "cause", None)
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__
    return None


def sentence(error: TapirError) -> str:
    """The text of an error without Ray's addition."""
    return str(error).partition(RAYS_ADVICE)[0]
