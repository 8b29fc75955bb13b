"""Writes reports to files, at the end of a run too."""

from __future__ import annotations

from pathlib import Path

from tapir_ray.api.caller import PROGRAM, Caller
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.report.stored import stored_run
from tapir_ray.run.layout import REPORT_FILE


def written(uri: str, out: str | None) -> str:
    """Writes the report of a run to `out`, or to `report.html` of the run; returns the path or URI.

    Raises InputError if there is no run at `uri`, or the file cannot be written.
    """
    from tapir_ray.methods.forecast import REPORTED
    from tapir_ray.report.html.report import report

    if out is not None and not Path(out).parent.is_dir():
        raise InputError(f"{out} cannot be written, as there is no folder {Path(out).parent}: make it first")
    run, text = stored_run(uri), report(uri, REPORTED)
    if out is not None:
        return to_file(text, out)
    try:
        run.write_text(REPORT_FILE, text)
    except OSError as error:
        raise InputError(
            f"{run.uri} cannot be written to ({one_line(error)}): give another place with --out"
        ) from error
    return run.uri_of(REPORT_FILE)


def saved(uri: str, caller: Caller = PROGRAM) -> str | None:
    """Writes `report.html` of a run that goes on or has ended, as `save` does, and returns its place."""
    try:
        from tapir_ray.methods.forecast import REPORTED
        from tapir_ray.report.html.report import save
    except ImportError as error:
        caller.warn(f"no report is written: {error}; install altair and vl-convert-python")
        return None
    return save(uri, REPORTED)


def to_file(text: str, out: str) -> str:
    """Writes a page to a local file and returns its path. Raises InputError if it cannot be written."""
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({one_line(error)}): give a file in a folder that exists") from error
    return out
