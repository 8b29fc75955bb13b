"""The errors a user can meet, each with the exit status of the command that ends with it."""


def last_line(error: BaseException) -> str:
    """What an error says in the end: after the traceback of another process, if it carries one."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


class TapirError(Exception):
    """Base of every error that tapir-ray raises on purpose; its text says what to change."""

    exit_status = 1


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
