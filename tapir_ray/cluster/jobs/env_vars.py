"""Forwards environment variables of `tapir submit --env NAME` to a job, in a file next to those of the working tree.

They are not in the job's `runtime_env`, because Ray logs that on every node (`runtime_env_agent.log`) with the values
of its variables. Only the user of the cluster can read the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from tapir_ray.errors import InputError
from tapir_ray.errors.redaction import looks_like_a_key

FILE = ".tapir_forwarded.json"
"""File in the working folder of the job and of its workers."""
HOOK = "tapir_ray.cluster.jobs.env_vars.load"
"""Function that Ray calls in every worker process before its first task."""


def named(names: Iterable[str]) -> dict[str, str]:
    """The values of environment variables by name. Raises InputError for one that is not set, and for NAME=VALUE."""
    found = {}
    for name in names:
        if "=" in name:
            # Command lines are visible to all users of a machine.
            raise InputError("--env takes a name without a value: set the variable in the environment of this command")
        if looks_like_a_key(name):
            raise InputError("--env takes the name of a variable, not the key itself: set a variable and give its name")
        if name not in os.environ:
            raise InputError(f"--env {name}: this variable is not set here; set it, or leave it out")
        found[name] = os.environ[name]
    return found


def load() -> None:
    """Sets the forwarded variables in this process; does nothing if there are none."""
    file = Path(FILE)
    if file.exists():
        os.environ.update(json.loads(file.read_text()))
