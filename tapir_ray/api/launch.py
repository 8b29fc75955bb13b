"""Runs the method of a config, and returns its summary.

launch(load("configs/demo.yaml"), "runs/demo")["student"]          # runs/demo/checkpoints/02
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tapir_ray.api.caller import PROGRAM, Caller
from tapir_ray.api.offline import warn
from tapir_ray.api.opening import started
from tapir_ray.api.report import saved
from tapir_ray.cluster.session import stopped_by_signals
from tapir_ray.config import Config, changed
from tapir_ray.errors import InputError
from tapir_ray.methods import layout_of, method_of
from tapir_ray.methods.method import Method
from tapir_ray.run.fork import fork
from tapir_ray.run.layout import LoopLayout
from tapir_ray.run.retry import retry_failed
from tapir_ray.run.run import Run
from tapir_ray.steps.context import Context
from tapir_ray.steps.early_stop import ended
from tapir_ray.steps.import_rows import import_rows, own_table
from tapir_ray.steps.stop import StopAfter

Summary = dict[str, Any]
"""Content of `summary.json`."""


def launch(
    config: Config, run_dir: str, until: str = "", start: str = "", fork_of: str = "", caller: Caller = PROGRAM
) -> Summary:
    """Runs or continues the loop in `run_dir` and returns its summary.

    - `until`: a stage to stop after.
    - `start` (`STAGE=PATH`): the user's own table, with which the stage begins.
    - `fork_of`: an older run, whose still valid tables a new run takes over.

    Raises InputError for mistakes that can be found beforehand, and Stopped, StageError and Reached as the method does.
    """
    method, layout = method_of(config), loop_of(config)
    if until and until not in layout.stages:
        raise InputError(f"--until {until}: no such stage; the stages are {', '.join(layout.stages)}")
    own = own_table(start, layout)
    with _stoppable(caller):
        if fork_of:
            fork(fork_of, run_dir, config, layout)
        warn(config, caller)
        with started(config, run_dir, own is not None and own[0] != "classify", caller=caller) as context:
            if own is not None:
                import_rows(context, *own)
            method.run(context, StopAfter(until))
    return _concluded(method, context, caller)


def retry(run_dir: str, overrides: list[str] | None = None, caller: Caller = PROGRAM) -> tuple[Config, Summary]:
    """Asks again for the failed rows of a run, redoes the stages that follow, and returns its config and summary.

    The config is that of the last start, with `overrides` (`a.b=c`) of keys that change no results. Raises InputError
    if `run_dir` holds no run, and as `launch` does.
    """
    run = Run.at(run_dir)
    if not run.exists("config.yaml"):
        raise InputError(f"{run.uri} holds no run (no config.yaml)")
    config = changed(run.stored_config(), overrides or [])
    method = method_of(config)
    with _stoppable(caller), started(config, run_dir, caller=caller) as context:
        retried = retry_failed(context.run, context.config, context.layout)
        for table, rows in retried.items():
            context.progress.say(f"{table}: {rows} failed rows are asked again")
        if not retried:
            context.progress.say("no row failed: nothing to ask again")
        method.run(context, StopAfter())
    return config, _concluded(method, context, caller)


def regenerate(config: Config, run_dir: str, caller: Caller = PROGRAM) -> Summary:
    """Regenerates the config's dataset in `run_dir`, or continues; as `launch`, but without training.

    Raises InputError for a config without the section `regenerate`.
    """
    if config.regenerate is None:
        raise InputError("the config has no section regenerate: add it, with its operations")
    method = method_of(config)
    with _stoppable(caller):
        if method.asks(config):
            warn(config, caller)
        with started(config, run_dir, caller=caller) as context:
            method.run(context, StopAfter())
    return _concluded(method, context, caller)


def loop_of(config: Config) -> LoopLayout:
    """Returns the layout of a method that trains. Raises InputError for a config with the section `regenerate`."""
    layout = layout_of(config)
    if not isinstance(layout, LoopLayout):
        raise InputError("the config has a section regenerate: use tapir regenerate, or take the section out")
    return layout


def refuse_untrained(config: Config, run_dir: str) -> None:
    """Raises InputError if a round of the run is not trained yet."""
    last, run = loop_of(config).checkpoint(config.curriculum.rounds), Run.at(run_dir)
    if run.done(last) is None and ended(run) is None:
        raise InputError(f"{run_dir} has no {last} to evaluate: train its rounds first (tapir run)")


def _concluded(method: Method, context: Context, caller: Caller) -> Summary:
    """Writes the summary and the report of a finished run, and returns the summary."""
    summary = method.summarise(context)
    saved(context.run.uri, caller)
    return summary


def _stoppable(caller: Caller) -> AbstractContextManager[None]:
    """Context manager in which signals stop the run, if the caller wants that."""
    return stopped_by_signals() if caller.signals else nullcontext()
