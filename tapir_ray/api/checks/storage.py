"""Check of the disk: the students that a run keeps and the checkpoints of a training against the free space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from tapir_ray.api.checks.base import FAIL, PASS, UNKNOWN, WARN, Finding, Status, Subject, gib
from tapir_ray.api.checks.sizes import model_size
from tapir_ray.data.storage import is_remote
from tapir_ray.methods import method_of

OF_STEP = 14
"""Bytes of a DeepSpeed checkpoint for each trained weight: weights in 16 bits, float32 copy and Adam's two moments."""
ROWS_BYTES = 4
"""Bytes on disk for each token of the forecast: replies in the cache and rows, compressed."""
TIGHT = 0.8


def disk(subject: Subject) -> Iterator[Finding]:
    """Yields whether the run fits on the disk of its folder."""
    config = subject.config
    students = (1 + config.curriculum.rounds) * (2 if config.control != "none" else 1)
    need = float(ROWS_BYTES * subject.report["tokens"])
    size = model_size(config) if method_of(config).trains else None
    if size is not None:
        need += students * size.parameters * (4 if config.train.precision == "float32" else 2)
        kept = 1 + config.train.checkpoints_kept
        need += kept * size.trained(config.train.lora) * OF_STEP
    if is_remote(subject.run_dir):
        yield Finding("disk", UNKNOWN, f"about {gib(need)} on {subject.run_dir}, whose free space is not known here")
        return
    path = Path(subject.run_dir).absolute()
    folder = next(one for one in (path, *path.parents) if one.exists())
    free = shutil.disk_usage(folder).free
    what = f"{students} students and {1 + config.train.checkpoints_kept} checkpoints" if size else "rows and replies"
    unknown = "" if size or not method_of(config).trains else ", without the student, whose size is not known here"
    found = f"about {gib(need)} ({what}{unknown}) of {gib(free)} free"
    todo = "free some space, or give --run-dir on another disk"
    status: Status = FAIL if need > free else WARN if need > TIGHT * free else PASS
    yield Finding("disk", status, found, "" if status == PASS else todo)
