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

from tapir_ray.cli import eval_verb
from tapir_ray.cluster.session import set_environment
from tapir_ray.config import Config, load
from tapir_ray.config.credentials import refuse_words
from tapir_ray.errors import InputError, Stopped, own_error, sentence
from tapir_ray.errors.redaction import redacted

SET = "change keys of the config, such as curriculum.rounds=2"
RUN_DIR = "folder or URI of the run; a folder that holds this run already is continued"


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status. Raises errors that are not tapir-ray's own."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["simulate"]:
        from tapir_ray.simulator.__main__ import main as simulate

        return simulate(arguments[1:])
    # argparse would read options after -- that belong to the job.
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
        print(f"tapir: {sentence(own)}", file=sys.stderr)
        return own.exit_status


def _show_redacted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints a traceback without credentials, which errors of libraries may quote."""
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
        raise InputError("--pilot sends rows from this machine and --address checks a cluster: give only one of them")
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


def _compare(options: argparse.Namespace) -> int:
    import json

    from tapir_ray.methods import layout_of
    from tapir_ray.report.compare import compare, print_comparison

    found = compare(options.run, options.other, layout_of)
    if options.json:
        print(json.dumps(found))
    else:
        print_comparison(found, sys.stdout)
    return 0


def configured(options: argparse.Namespace) -> tuple[Config, str]:
    """Returns the config of a command's options, and the folder or URI of its run."""
    config = load(options.config, options.set)
    return config, options.run_dir or config.run_dir or f"runs/{config.name}"


def takes_config(command: argparse.ArgumentParser, run_dir: str) -> None:
    """Adds the options that `configured` reads to a command; `run_dir` is the help text of `--run-dir`."""
    command.add_argument("config", help="YAML file")
    command.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=SET)
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
    takes_config(run, RUN_DIR)
    run.add_argument(
        "--until", default="", metavar="STAGE", help="stop after this stage, in the first round that has it"
    )
    run.add_argument("--from", dest="start", default="", metavar="STAGE=PATH", help="begin a stage with your own table")
    run.add_argument("--fork", default="", metavar="RUN", help="begin a new run with the still valid tables of RUN")

    regenerate = verb("regenerate", _regenerate, "regenerate a dataset, shard by shard, without training")
    takes_config(regenerate, RUN_DIR)

    again = verb("retry", _retry, "ask again for the failed rows of a run, and redo the stages that follow")
    again.add_argument("run", help="folder or URI of the run")
    again.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=SET)

    check = verb("check", _check, "check a config and estimate the requests, tokens and cost of its run")
    takes_config(check, "folder or URI of the run; a pilot gets its own folder next to it")
    check.add_argument("--pilot", type=_rows, default=0, metavar="N", help="send N real rows through every stage first")
    check.add_argument(
        "--address", metavar="URL", help="check the capacity, models and storage of this cluster instead"
    )
    check.add_argument(
        "--env",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME",
        help="with --address: environment variables to pass on to the workers",
    )
    check.add_argument("--json", action="store_true", help="print JSON")

    labels = verb("classifier", _classifier, "label rows by the teacher, train the task classifier on them, score it")
    labels.add_argument("action", choices=("label", "train", "score"))
    takes_config(labels, "folder or URI of the run that holds the labels and the classifier")
    labels.add_argument(
        "--rows",
        nargs="+",
        default=[],
        metavar="[TASK=]FILE",
        help="files to train or score on, with a task for each row (column seed_data.task_column) or for a whole file",
    )
    labels.add_argument(
        "--model", help="score: Hugging Face name or folder of a fine-tuned classifier, not the run's own"
    )

    submit = verb("submit", _submit, "submit a job with this folder to a cluster, follow it, return its exit status")
    takes_config(submit, "URI of the run, or an absolute folder that all nodes share")
    submit.add_argument("--job", required=True, metavar="NAME", help="jobs/NAME.py; its own arguments follow after --")
    submit.add_argument(
        "--address", required=True, metavar="URL", help="dashboard of the cluster's head, http://HEAD:8265"
    )
    submit.add_argument(
        "--env", action="extend", nargs="+", default=[], metavar="NAME", help="environment variables to pass on"
    )
    submit.add_argument("--stop", action="store_true", help="stop the job that works on this run")

    status = verb("status", _status, "show the progress of a run, its spending, and how to continue it")
    status.add_argument("run", help="folder or URI of the run")
    status.add_argument(
        "--address", metavar="URL", help="ask by a job on this cluster: dashboard of its head, http://HEAD:8265"
    )
    status.add_argument(
        "--env",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME",
        help="with --address: environment variables that the job needs for the storage",
    )
    status.add_argument("--json", action="store_true", help="print JSON")

    evaluated = verb("eval", eval_verb.evaluate, "measure the student of a run, or a model, by evaluation suites")
    eval_verb.add_options(evaluated, SET)

    compared = verb("compare", _compare, "say how much better the students of a run are than those of another")
    compared.add_argument("run", help="folder or URI of the run")
    compared.add_argument("other", help="folder or URI of the run that it is compared with")
    compared.add_argument("--json", action="store_true", help="print JSON")

    # `main` hands this verb over before parsing; it is here for --help.
    verbs.add_parser("simulate", help="serve a simulated teacher and judge on loopback")

    return parser


def _rows(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
