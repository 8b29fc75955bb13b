"""The `tapir` command: each verb is a few lines around a function of the package.

Exit status: 0 done · 1 failed · 2 bad config or input, before anything was spent · 3 stopped, resumable.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tapir_ray.cluster.session import set_environment
from tapir_ray.config import Config, load
from tapir_ray.config.credentials import refuse_words
from tapir_ray.errors import InputError, Stopped, own_error, sentence
from tapir_ray.errors.redaction import redacted


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; an error that is not tapir-ray's own comes through."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["simulate"]:
        from tapir_ray.simulator.__main__ import main as simulate

        return simulate(arguments[1:])
    for_job: list[str] = []
    if arguments[:1] == ["submit"] and "--" in arguments:
        end = arguments.index("--")
        arguments, for_job = arguments[:end], arguments[end + 1 :]
    try:
        refuse_words(arguments)
        refuse_words(for_job)
    except InputError as error:
        print(f"tapir: {error}", file=sys.stderr)
        return error.exit_status
    options = _parser().parse_args(arguments, argparse.Namespace(for_job=for_job))
    return ended(options.verb, options)


def ended(verb: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """The exit status with which a command ends, its error printed if that is tapir-ray's own."""
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
        print(f"tapir: {sentence(own)}", file=sys.stderr)
        return own.exit_status


def _show_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback without the keys that a library's error may quote."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))


def _run(options: argparse.Namespace) -> int:
    from tapir_ray.cli.run import launch

    launch(*configured(options), options.until, options.start, options.fork)
    return 0


def _retry(options: argparse.Namespace) -> int:
    from tapir_ray.cli.run import retry

    retry(options.run, options.set)
    return 0


def _regenerate(options: argparse.Namespace) -> int:
    from tapir_ray.cli.run import regenerate

    regenerate(*configured(options))
    return 0


def _check(options: argparse.Namespace) -> int:
    from tapir_ray.cli.check import check

    if options.address:
        return _check_cluster(options)
    check(*configured(options), options.pilot, options.json)
    return 0


def _check_cluster(options: argparse.Namespace) -> int:
    import json

    from tapir_ray.cli.check_cluster import check_by_job, check_cluster, show
    from tapir_ray.cluster.jobs.submit import Submission

    config, run_dir = configured(options)
    if options.pilot:
        raise InputError("--pilot sends rows from here and --address looks at a cluster: give one of them")
    if "://" in options.address:
        submission = Submission(config, options.config, run_dir, "check", tuple(options.set))
        found = check_by_job(submission, options.address, options.env)
    else:
        found = check_cluster(config, run_dir, options.address)
    if options.json:
        print(json.dumps(found))
    else:
        show(found, sys.stdout)
    return 0


def _classifier(options: argparse.Namespace) -> int:
    from tapir_ray.cli import classifier

    config, run_dir = configured(options)
    if options.action == "score":
        classifier.score(config, run_dir, options.rows, options.model)
    else:
        classifier.prepare(config, run_dir, options.action == "train", options.rows)
    return 0


def _submit(options: argparse.Namespace) -> int:
    from tapir_ray.cluster.jobs.submit import Submission, stop, submit

    config, run_dir = configured(options)
    submission = Submission(config, options.config, run_dir, options.job, tuple(options.set), tuple(options.for_job))
    if options.stop:
        stop(submission, options.address)
        return 0
    return submit(submission, options.address, options.env)


def _status(options: argparse.Namespace) -> int:
    import json

    from tapir_ray.methods import layout_of
    from tapir_ray.report.status import print_status, status

    if options.address:
        from tapir_ray.report.remote_status import remote_status

        found = remote_status(options.run, options.address, options.env)
    else:
        found = status(options.run, layout_of)
    if options.json:
        print(json.dumps(found))
    else:
        print_status(found, sys.stdout)
    return 0


def configured(options: argparse.Namespace) -> tuple[Config, str]:
    """The config of a command's options, and the folder or URI of its run."""
    config = load(options.config, options.set)
    return config, options.run_dir or config.run_dir or f"runs/{config.name}"


def takes_config(command: argparse.ArgumentParser, run_dir: str) -> None:
    """Give a command the options that `configured` reads; `run_dir` is the help text of that option."""
    command.add_argument("config", help="YAML file")
    command.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE")
    command.add_argument("--run-dir", help=run_dir)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tapir", description="Distil instruction following with task-aware curricula."
    )
    verbs = parser.add_subparsers(dest="command", required=True)

    def verb(name: str, function: Any, help: str) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, help=help)
        command.set_defaults(verb=function)
        return command

    run = verb("run", _run, "run or continue the whole loop")
    takes_config(run, "folder or URI of the run; one that holds this run continues it")
    run.add_argument(
        "--until", default="", metavar="STAGE", help="stop after this stage of the first round that has it"
    )

    run.add_argument("--from", dest="start", default="", metavar="STAGE=PATH", help="begin a stage with your own table")

    run.add_argument(
        "--fork", default="", metavar="RUN", help="begin a new run with what the config leaves valid of an older one"
    )

    anew = verb("regenerate", _regenerate, "produce a dataset anew, part by part, without training")
    takes_config(anew, "folder or URI of the run; one that holds this run continues it")

    again = verb("retry", _retry, "ask again for a run's failed rows, and make anew what follows from them")
    again.add_argument("run", help="folder or URI of the run")
    again.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE")

    check = verb("check", _check, "check a config and print what its run will need: calls, tokens, cost")
    takes_config(check, "folder or URI of the run; a pilot gets one of its own beside it")
    check.add_argument("--pilot", type=_rows, default=0, metavar="N", help="send N real rows through every stage first")
    check.add_argument(
        "--address", metavar="URL", help="look instead whether this cluster has the places, models and storage of a run"
    )
    check.add_argument(
        "--env", action="extend", nargs="+", default=[], metavar="NAME", help="variables that workers need for that"
    )
    check.add_argument("--json", action="store_true", help="print JSON")

    labels = verb("classifier", _classifier, "label rows by the teacher, train the task classifier on them, score it")
    labels.add_argument("action", choices=("label", "train", "score"))
    takes_config(labels, "folder or URI of the run that holds labels and classifier")
    labels.add_argument(
        "--rows",
        nargs="+",
        default=[],
        metavar="[TASK=]FILE",
        help="files whose rows have a task, in the column seed_data.task_column or for a whole file: to train on, or "
        "to score on",
    )
    labels.add_argument("--model", help="score: a fine-tuned HF name or folder instead of the run's own")

    submit = verb("submit", _submit, "send a job of this folder to a cluster, follow it, return its exit status")
    takes_config(submit, "URI of the run, or an absolute folder that all nodes share")
    submit.add_argument("--job", required=True, metavar="NAME", help="jobs/NAME.py; its own arguments follow after --")
    submit.add_argument("--address", required=True, metavar="URL", help="of the head's dashboard, http://HEAD:8265")
    submit.add_argument(
        "--env", action="extend", nargs="+", default=[], metavar="NAME", help="environment variables to take along"
    )
    submit.add_argument("--stop", action="store_true", help="end the job that works on this run")

    status = verb("status", _status, "say where a run is, what it has spent, and how it goes on")
    status.add_argument("run", help="folder or URI of the run")
    status.add_argument("--address", metavar="URL", help="let a job on this cluster look: the head's dashboard")
    status.add_argument(
        "--env", action="extend", nargs="+", default=[], metavar="NAME", help="variables that job needs for the storage"
    )
    status.add_argument("--json", action="store_true", help="print JSON")

    verbs.add_parser("simulate", help="serve a simulated teacher and judge on loopback")

    return parser


def _rows(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
