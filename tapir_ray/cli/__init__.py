"""The `tapir` command: `verbs/` has a verb a file, each a few lines around a function of the package.

Exit status: 0 done · 1 failed · 2 bad config or input, before anything was spent · 3 stopped, resumable.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

from tapir_ray.cli.verbs import VERBS
from tapir_ray.cluster.session import set_environment
from tapir_ray.config.credentials import refuse_words
from tapir_ray.errors import InputError, Stopped, own_error, sentence
from tapir_ray.errors.redaction import redacted


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status. Raises errors that are not tapir-ray's own."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["simulate"]:
        from tapir_ray.simulator.__main__ import main as simulate

        return simulate(arguments[1:])
    arguments, for_job = _own(arguments)
    try:
        refuse_words(arguments)
        refuse_words(for_job)
    except InputError as error:
        print(f"tapir: {error}", file=sys.stderr)
        return error.exit_status
    options = _parser().parse_args(arguments, argparse.Namespace(for_job=for_job))
    return ended(options.verb, options)


def _own(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns (arguments as argparse takes them, those after `--` that belong to a submitted job)."""
    for_job: list[str] = []
    if arguments[:1] == ["submit"] and "--" in arguments:
        end = arguments.index("--")
        arguments, for_job = arguments[:end], arguments[end + 1 :]
    return (_joined(arguments, "--sort") if arguments[:1] == ["rows"] else arguments), for_job


def _joined(arguments: list[str], option: str) -> list[str]:
    """Returns the arguments with `--sort -COLUMN` as `--sort=-COLUMN`: argparse would read an option in its place."""
    if option not in arguments[:-1]:
        return arguments
    at = arguments.index(option)
    return [*arguments[:at], f"{option}={arguments[at + 1]}", *arguments[at + 2 :]]


def ended(verb: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Runs a command and returns its exit status; prints an error of tapir-ray's own as one sentence."""
    set_environment(here=not getattr(options, "address", None))
    try:
        return verb(options)
    except KeyboardInterrupt:
        print("tapir: interrupted; start the same command again to continue", file=sys.stderr)
        return Stopped.exit_status
    except Exception as error:
        own = own_error(error)
        if own is None:
            sys.excepthook = _show_redacted
            raise
        print(f"tapir: {sentence(own)}", *getattr(error, "__notes__", ()), sep="\n  ", file=sys.stderr)
        return own.exit_status


def _show_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints a traceback without credentials, which errors of libraries may quote."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tapir", description="Distil instruction following with task-aware curricula."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, verb in VERBS.items():
        command = commands.add_parser(name, help=verb.HELP)
        command.set_defaults(verb=verb.run)
        verb.add_options(command)
    # `main` hands this verb over before parsing; it is here for --help.
    commands.add_parser("simulate", help="serve a simulated teacher and judge on loopback")
    return parser


if __name__ == "__main__":
    sys.exit(main())
