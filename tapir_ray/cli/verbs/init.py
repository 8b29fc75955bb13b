"""Verb `init`: a config to begin with."""

from __future__ import annotations

import argparse
import sys

HELP = "write a config to begin with: from a few answers, or a copy of a shipped one"


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of `tapir init`."""
    command.add_argument(
        "target", nargs="?", default=".", metavar="DIR|FILE", help="where to write it; without it here"
    )
    command.add_argument("--from", dest="source", metavar="NAME", help="copy this shipped config instead of asking")
    command.add_argument("--list", action="store_true", help="list the shipped configs")
    command.add_argument("--student", metavar="MODEL", help="HF name or folder of the student")
    command.add_argument("--teacher", metavar="MODEL", help="name of the teacher at its endpoint")
    command.add_argument("--base-url", metavar="URL", help="endpoint of the teacher; without it OpenAI's")
    command.add_argument("--key-env", metavar="NAME", help="environment variable with the key; none for no key")
    command.add_argument("--seeds", metavar="PATH", help="file, folder or hub id with instructions")
    command.add_argument("--hardware", metavar="cpu|1gpu|Ngpus", help="machine of the run")
    command.add_argument(
        "--schema", action="store_true", help="also write the config's JSON schema, by which editors complete keys"
    )
    command.add_argument("--force", action="store_true", help="replace a file that exists")


def run(options: argparse.Namespace) -> int:
    """Writes the config and returns 0. Raises InputError as `write` does, or if an answer is missing."""
    from tapir_ray.cli.init import answers_of, listed, write

    if options.list:
        print(listed())
        return 0
    path = write(options.target, options.source, answers_of(options), options.schema, options.force)
    print(f"written: {path}\nnext: tapir check {path}", file=sys.stderr)
    return 0
