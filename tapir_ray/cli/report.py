"""Writes reports to files, at the end of a run too, and opens them in a browser."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

from tapir_ray.data.storage import is_remote
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.methods.method import Method
from tapir_ray.report.stored import stored_run
from tapir_ray.steps.context import Context


def written(uri: str, out: str | None) -> str:
    """Writes the report of a run to `out`, or to `report.html` of the run; returns the path or URI.

    Raises InputError if there is no run at `uri`, or the file cannot be written.
    """
    from tapir_ray.methods.forecast import REPORTED
    from tapir_ray.report.html.report import REPORT, report

    if out is not None and not Path(out).parent.is_dir():
        raise InputError(f"{out} cannot be written, as there is no folder {Path(out).parent}: make it first")
    run, text = stored_run(uri), report(uri, REPORTED)
    if out is not None:
        return to_file(text, out)
    try:
        run.write_text(REPORT, text)
    except OSError as error:
        raise InputError(
            f"{run.uri} cannot be written to ({one_line(error)}): give another place with --out"
        ) from error
    return run.uri_of(REPORT)


def conclude(method: Method, context: Context) -> None:
    """Writes the summary and the report of a finished run, and prints the summary and the report's path."""
    method.show(method.summarise(context), context.run, sys.stdout)
    if (place := saved(context.run.uri)) is not None:
        print(f"report: {place}")


def saved(uri: str) -> str | None:
    """Writes `report.html` of a run that goes on or has ended, as `save` does."""
    try:
        from tapir_ray.methods.forecast import REPORTED
        from tapir_ray.report.html.report import save
    except ImportError as error:
        print(f"warning: no report is written: {error}; install altair and vl-convert-python", file=sys.stderr)
        return None
    return save(uri, REPORTED)


def to_file(text: str, out: str) -> str:
    """Writes a page to a local file and returns its path. Raises InputError if it cannot be written."""
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({one_line(error)}): give a file in a folder that exists") from error
    return out


def show(place: str) -> None:
    """Opens a page in a browser. Raises InputError for one on object storage, or without a browser."""
    if is_remote(place):
        raise InputError(f"{place} is not on this machine: write a copy with --out FILE to open it")
    if not webbrowser.open(Path(place).absolute().as_uri()):
        raise InputError(f"no browser could be started: open {place} yourself")
