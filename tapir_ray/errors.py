"""The errors a user can meet, each with the exit status of the command that ends with it."""

from __future__ import annotations

from tapir_ray.redaction import redacted

RAYS_ADVICE = "\nFailed to apply UDF transform"
"""What Ray Data adds to the text of an error in a pipeline, from here on, is of no use to a user."""


def last_line(error: BaseException) -> str:
    """What an error says in the end: after the traceback of another process, if it carries one."""
    lines = [line for line in redacted(str(error)).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


class TapirError(Exception):
    """Base of every error that tapir-ray raises on purpose; its text says what to change."""

    exit_status = 1

    def __str__(self) -> str:
        """The text without keys that a library's error, quoted in it, may repeat."""
        return redacted(super().__str__())


class InputError(TapirError):
    """Bad configuration or input, found before anything was spent (exit 2)."""

    exit_status = 2


class StageError(TapirError):
    """A stage could not be completed, e.g. too many failed rows (exit 1)."""


class Reached(TapirError):
    """The stage of `--until` is done (exit 0)."""

    exit_status = 0


class Stopped(TapirError):
    """A clean, resumable stop by a budget or a signal (exit 3)."""

    exit_status = 3


def own_error(error: BaseException | None) -> TapirError | None:
    """The TapirError that `error` is, or that Ray has wrapped in it as the error of a task; None if it is neither."""
    while error is not None:
        wrapped = getattr(error, "cause", None)
        if isinstance(error, TapirError) and wrapped is None:
            return error
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__
    return None


def sentence(error: TapirError) -> str:
    """What an error says to a user."""
    return str(error).partition(RAYS_ADVICE)[0]
