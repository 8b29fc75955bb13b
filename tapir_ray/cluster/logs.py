"""Logs of libraries: what no user can act on goes to a file, errors go to the terminal, and a failed run keeps both.

    with quiet(Path("driver.log")):            # the driver's own libraries
        with native_errors_to(path):           # around ray.init
            ray.init(…)
    keep(run, folders)                          # after an error: RUN/logs/00001/…

Workers write to Ray's own files in its folder on each node (`log_to_driver=False`).
"""

from __future__ import annotations

import ctypes
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tapir_ray.data.storage import Storage
from tapir_ray.errors import StageError, own_error
from tapir_ray.errors.redaction import redacted

SHOWN_FROM = {
    "ray": logging.ERROR,
    # A dashboard that does not start, for example on a slow machine; a run needs none.
    "ray._private.services": logging.CRITICAL + 1,
    # Lines on each execution, and errors that are raised as well.
    "ray.data": logging.CRITICAL,
    # Which accelerator it has found, on standard output.
    "DeepSpeed": logging.ERROR,
}
"""Level from which records of a library's loggers reach the terminal. The longest name counts."""
OWN_HANDLERS = ("ray", "ray.data")
"""Loggers whose handlers write to the terminal when they have been imported."""
NO_HANDLERS = ("DeepSpeed",)
"""Loggers that get a handler of their own when their library is imported, perhaps later."""
PARENTS = ("ray.llm",)
"""Loggers whose children bring a handler to the terminal of their own, unless the parent has one."""
MOST_BYTES, MOST_FILES = 256 * 1024, 100
"""Last bytes of a log file that are kept, and the number of files; the latest first."""
FOLDER = "logs"


@contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Context manager that writes records below SHOWN_FROM, and warnings of other packages than this, to a file.

    Messages of a raylet, such as a warning about many processes, are in its log file alone.
    """
    from ray._private import worker

    file = logging.FileHandler(path, delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    hidden = _Hidden(file)
    places: list[Any] = [logging.getLogger(name) for name in NO_HANDLERS]
    for name in OWN_HANDLERS:
        handlers = logging.getLogger(name).handlers
        places += [one for one in handlers if not isinstance(one, logging.FileHandler) and hasattr(one, "stream")]
    for place in places:
        place.addFilter(hidden)
    for name in PARENTS:
        logging.getLogger(name).addHandler(file)
    show = warnings.showwarning

    def show_own(message: Any, category: Any, filename: str, *rest: Any) -> None:
        if "tapir_ray" in Path(filename).parts:
            show(message, category, filename, *rest)
        else:
            text = f"{filename}: {category.__name__}: {message}"
            file.handle(logging.LogRecord("warnings", logging.WARNING, filename, 0, text, None, None))

    warnings.showwarning = show_own  # type: ignore[assignment]
    # Ray has no option for the messages of a raylet: `log_to_driver` is for the workers.
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = True
        warnings.showwarning = show
        for place in places:
            place.removeFilter(hidden)
        for name in PARENTS:
            logging.getLogger(name).removeHandler(file)
        file.close()


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Context manager in which libraries that log on import show errors alone; the loggers of Ray are left as they are.

    For a program whose own Ray is used: it may have set them up.
    """
    hidden = _Hidden(logging.NullHandler())
    for name in NO_HANDLERS:
        logging.getLogger(name).addFilter(hidden)
    try:
        yield
    finally:
        for name in NO_HANDLERS:
            logging.getLogger(name).removeFilter(hidden)


class _Hidden(logging.Filter):
    """Filter that hands records below SHOWN_FROM to a file instead."""

    def __init__(self, file: logging.Handler) -> None:
        super().__init__()
        self._file = file

    def filter(self, record: logging.LogRecord) -> bool:
        name = max((one for one in SHOWN_FROM if f"{record.name}.".startswith(f"{one}.")), key=len, default="")
        if not name or record.levelno >= SHOWN_FROM[name]:
            return True
        self._file.handle(record)
        return False


@contextmanager
def native_errors_to(path: Path) -> Iterator[None]:
    """Context manager: a C++ logger that is opened inside it writes to a file where it would write to stderr.

    Ray's core in the driver repeats errors of its log file there, among them advice about actors of Ray Data. Its
    loggers take C's variable `stderr` once, when they are opened; Python's stderr is another object.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        variable = ctypes.c_void_p.in_dll(libc, "stderr")
        # Never closed: the loggers write to it until the process ends.
        file = libc.fopen(str(path).encode(), b"a")
    except (OSError, ValueError, AttributeError):  # another C library
        file = None
    if not file:
        yield
        return
    before, variable.value = variable.value, file
    try:
        yield
    finally:
        variable.value = before


def keep(storage: Storage, attempt: int, folders: list[Path]) -> str | None:
    """Copies the ends of the log files in `folders` to the run, without keys; returns the folder if there are any."""
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".log", ".out", ".err")]
    sizes = {file: stat for file in files if not file.is_symlink() and (stat := file.stat()).st_size}
    latest = sorted(sizes, key=lambda file: sizes[file].st_mtime, reverse=True)[:MOST_FILES]
    target = f"{FOLDER}/{attempt:05d}"
    for file in latest:
        with suppress(OSError):  # a log file may go away, and none is worth another error
            with file.open("rb") as stream:
                stream.seek(max(0, sizes[file].st_size - MOST_BYTES))
                text = stream.read().decode(errors="replace")
            storage.write_text(f"{target}/{file.name}", redacted(text))
    return storage.uri_of(target) if latest else None


@contextmanager
def kept_after_error(storage: Storage, attempt: int, folders: list[Path]) -> Iterator[None]:
    """Context manager that keeps the logs if an error ends the run, and adds their folder to the error as a note."""
    try:
        yield
    except Exception as error:
        own = own_error(error)
        if own is None or own.exit_status == StageError.exit_status:
            with suppress(OSError):
                if place := keep(storage, attempt, folders):
                    error.add_note(f"logs of Ray, vLLM and the workers: {place}")
        raise
