"""Verb `serve`: a student behind an OpenAI server on this machine."""

from __future__ import annotations

import argparse
import functools

from tapir_ray.cli.options import takes_set

HELP = "serve the student of a run, or a model, by vLLM's OpenAI server on loopback"
PORT = 8000
TARGET = "folder or URI of a run, or HF folder or name of a model"
STUDENTS = ("best", "last", "control", "initial")
STUDENT = "student of the run; without it the best one, or the last while the run goes on"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir serve`."""
    command.add_argument("target", metavar="RUN|MODEL", help=TARGET)
    command.add_argument("--student", choices=STUDENTS, help=STUDENT)
    command.add_argument("--port", type=int, default=PORT, help=f"{PORT} without it; 0 takes any free port")
    takes_set(command)


def run(options: argparse.Namespace) -> int:
    """Serves until Ctrl-C and returns 0. Raises errors as `serve` does."""
    from tapir_ray.cli.serve import serve

    serve(options.target, options.student, options.port, options.set, functools.partial(print, flush=True))
    return 0
