"""The `tapir` command: each verb is a few lines around a function of the package.

Exit status: 0 done · 1 failed · 2 bad config or input, before anything was spent · 3 stopped, resumable.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tapir_ray.config import Config, load
from tapir_ray.errors import InputError, Stopped, TapirError


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.verb(options)
    except Stopped as stop:
        print(f"tapir: {stop}", file=sys.stderr)
        return stop.exit_status
    except TapirError as error:
        print(f"tapir: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("tapir: interrupted; start the same command again to continue", file=sys.stderr)
        return Stopped.exit_status


def _run(options: argparse.Namespace) -> int:
    from tapir_ray.launch import launch

    config = load(options.config, options.set)
    launch(config, options.run_dir or config.run_dir or f"runs/{config.name}", options.until, options.start)
    return 0


def _status(options: argparse.Namespace) -> int:
    from tapir_ray.report.status import status

    return status(options.run, as_json=options.json)


def _simulate(options: argparse.Namespace) -> int:
    from tapir_ray.simulator import serve

    serve(
        options.scenario,
        port=options.port,
        seed=options.seed,
        latency_s=options.latency,
        judge_noise=options.judge_noise,
        position_bias=options.position_bias,
        length_bias=options.length_bias,
        log=options.log,
        skip=options.skip,
    )
    return 0


def _classifier(options: argparse.Namespace) -> int:
    from tapir_ray import classifier_verbs

    config: Config = load(options.config, options.set)
    return getattr(classifier_verbs, options.action)(config, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tapir", description="Distil instruction following with task-aware curricula.")
    verbs = parser.add_subparsers(dest="command", required=True)

    def verb(name: str, function: Any, help: str) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, help=help)
        command.set_defaults(verb=function)
        return command

    def takes_config(command: argparse.ArgumentParser) -> None:
        command.add_argument("config", help="YAML file")
        command.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE")

    run = verb("run", _run, "run or continue the whole loop")
    takes_config(run)
    run.add_argument("--run-dir", help="folder or URI of the run; one that holds this run continues it")
    run.add_argument("--until", default="", metavar="STAGE", help="stop after this stage of the first round that has it")
    run.add_argument("--from", dest="start", metavar="STAGE=TABLE", help="start from a table of your own")

    status = verb("status", _status, "where a run stands")
    status.add_argument("run", help="folder or URI of the run")
    status.add_argument("--json", action="store_true")

    simulate = verb("simulate", _simulate, "serve a simulated teacher and judge on loopback")
    simulate.add_argument("--scenario", default="tasks", help="`tasks`, or a file of recorded pairs")
    simulate.add_argument("--port", type=int, default=0)
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--skip", type=int, default=0, help="recorded: rows that are not handed out")
    simulate.add_argument("--latency", type=float, default=0.0, metavar="SECONDS")
    simulate.add_argument("--judge-noise", type=float, default=0.0, metavar="SIGMA")
    simulate.add_argument("--position-bias", type=float, default=0.0, metavar="POINTS")
    simulate.add_argument("--length-bias", type=float, default=0.0, metavar="POINTS")
    simulate.add_argument("--log", metavar="FILE")

    classifier = verb("classifier", _classifier, "label, train or score the task classifier")
    classifier.add_argument("action", choices=("label", "train", "score"))
    takes_config(classifier)
    classifier.add_argument("--run-dir")
    classifier.add_argument("--rows", help="a file of rows with a task column")
    classifier.add_argument("--model", help="score: a fine-tuned folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
