"""Verb `chat`: a talk with a student in the terminal."""

from __future__ import annotations

import argparse

from tapir_ray.cli.options import positive, takes_set
from tapir_ray.cli.verbs.serve import STUDENT, STUDENTS, TARGET

HELP = "talk to the student of a run, or to a model, in the terminal"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir chat`."""
    command.add_argument("target", nargs="?", metavar="RUN|MODEL", help=TARGET)
    command.add_argument("--url", help="address of a server that runs already, such as http://127.0.0.1:8000/v1")
    command.add_argument("--student", choices=STUDENTS, help=STUDENT)
    command.add_argument("--system", metavar="TEXT", help="system prompt")
    command.add_argument("--max-tokens", type=positive, metavar="N", help="longest answer, in tokens")
    command.add_argument("--temperature", type=float, metavar="T", help="0 is always the most probable token")
    takes_set(command)


def run(options: argparse.Namespace) -> int:
    """Talks until /quit and returns 0. Raises errors as `run_chat` does."""
    from tapir_ray.cli.chat import run_chat

    run_chat(
        options.target,
        options.url,
        options.student,
        options.set,
        options.system,
        options.max_tokens,
        options.temperature,
    )
    return 0
