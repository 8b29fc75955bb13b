"""`tapir export`: a dataset or a student of a run, written to a folder or URI, uploaded to a hub, or both."""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.table import Table

from tapir_ray.errors import InputError
from tapir_ray.methods import layout_of
from tapir_ray.report.console import console
from tapir_ray.report.export import hub
from tapir_ray.report.export.dataset import export_dataset
from tapir_ray.report.export.formats import FORMATS
from tapir_ray.report.export.student import export_student, refuse_local_base

DATASET, STUDENT = "dataset", "student"
KIND = {DATASET: "dataset", STUDENT: "model"}
"""Kinds of repositories on the hub."""
ONLY = {DATASET: ("student", "adapter", "merged"), STUDENT: ("format", "table")}
"""Options that have no effect on each."""


def export(options: argparse.Namespace) -> dict[str, Any]:
    """Exports what the options of the command name, and returns its counts as JSON values.

    An upload happens before `--out` is written: if it fails, the same command can be given again. Raises InputError for
    options that have no effect, and as the exports and `hub.push` do.
    """
    what = options.what
    _check(options)
    url: list[str] = []

    def finish(folder: Path) -> None:
        if options.push is not None:
            refuse_local_base(folder)
            url.append(hub.push(folder, options.push, KIND[what], options.private))

    with ExitStack() as stack:
        out = options.out or f"{stack.enter_context(tempfile.TemporaryDirectory(prefix='tapir-export-'))}/export"
        if what == DATASET:
            made = export_dataset(options.run, layout_of, out, options.format, options.table, options.overwrite, finish)
            found = made.as_json()
        else:
            chosen = export_student(
                options.run, layout_of, out, options.student, options.adapter, options.overwrite, finish
            )
            found = {"student": chosen.which, "round": chosen.round, "adapter": options.adapter}
    return {"what": what, **found, "out": options.out, "url": url[0] if url else None}


def _check(options: argparse.Namespace) -> None:
    for name in ONLY[options.what]:
        if getattr(options, name):
            raise InputError(f"--{name} has no effect with --what {options.what}: leave it out")
    if options.what == DATASET and options.format is None:
        raise InputError(f"--what {DATASET} needs --format: one of {', '.join(FORMATS)}")
    if options.out is None and options.push is None:
        raise InputError("give --out with a new folder or URI, or --push with a repository of a hub")
    if options.private and options.push is None:
        raise InputError("--private has no effect without --push: leave it out")
    if options.push is not None:
        hub.check(options.push)
        if options.format == "hf":
            raise InputError("--push: a hub shows no rows of a dataset saved by HF datasets: take --format parquet")


def show(found: dict[str, Any]) -> None:
    """Prints the counts of an export for people, and where it is."""
    out = console(sys.stdout)
    if found["what"] == DATASET:
        rows = Table("rows", title=f"dataset in the format {found['format']}")
        rows.add_column("number", justify="right")
        for table, count in found["tables"].items():
            rows.add_row(f"read from {table}", f"{count:,}")
        for reason, count in found["left_out"].items():
            rows.add_row(f"left out: {reason}", f"{count:,}")
        rows.add_row("exported", f"{found['rows']:,}")
        out.print(rows)
    else:
        kind = "adapter of the" if found["adapter"] else "the"
        out.print(f"{kind} {found['student']} student, of round {found['round']}")
    for name in ("out", "url"):
        if found[name] is not None:
            out.print(f"{found['what']}: {found[name]}", soft_wrap=True)
