"""Environment variables that `tapir submit --env NAME` takes along, in a file beside the working tree's.

They are not in the job's `runtime_env`: Ray writes that to its logs on every node (`runtime_env_agent.log`), with the
values of its variables. Only the cluster's own user may read the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from tapir_ray.errors import InputError
from tapir_ray.errors.redaction import looks_like_a_key

FILE = ".tapir_forwarded.json"
"""In the working folder of the job and of its workers."""
HOOK = "tapir_ray.cluster.jobs.env_vars.load"
"""What Ray calls in every worker process before its first task."""


def named(names: Iterable[str]) -> dict[str, str]:
    """The values of these environment variables. Raises InputError for one that is not set, and for NAME=VALUE."""
    found = {}
    for name in names:
        if "=" in name:
            raise InputError("--env takes names alone: set the variable here, where no other user reads its value")
        if looks_like_a_key(name):
            raise InputError("--env takes the name of a variable, and not the key itself")
        if name not in os.environ:
            raise InputError(f"--env {name}: this variable is not set here; set it, or leave it out")
        found[name] = os.environ[name]
    return found


def load() -> None:
    """Set the forwarded variables in this process; does nothing where none came along."""
    file = Path(FILE)
    if file.exists():
        os.environ.update(json.loads(file.read_text()))
