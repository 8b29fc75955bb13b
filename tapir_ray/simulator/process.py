"""Runs the simulator as a child process that ends with the process that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from tapir_ray.errors import InputError
from tapir_ray.simulator.options import Options, flag

STOP_S = 5.0


@contextmanager
def running(options: Options) -> Iterator[str]:
    """Starts `python -m tapir_ray.simulator`, yields its base URL (ending in /v1) once it listens, ends it on exit.

    The child watches its parent and ends within half a second of the parent's death. Raises InputError if it does not
    start; its own message is on stderr.
    """
    # The child polls, because the kernel's parent-death signal fires when the *thread* that started the child ends.
    child = subprocess.Popen(
        [sys.executable, "-m", "tapir_ray.simulator", *_arguments(options), "--parent", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        if not url:
            raise InputError(f"the simulator did not start (exit {child.wait(STOP_S)}); its message is above")
        yield url
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _arguments(options: Options) -> list[str]:
    # `--name=value` in one word, so that a value that begins with a dash is not taken for an option.
    given = ((key, value) for key, value in asdict(options).items() if value is not None)
    return [f"{flag(key)}={value}" for key, value in given]
