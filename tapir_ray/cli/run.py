"""Opens what a run needs, cheapest first, runs its method, and closes everything again.

    launch(load("configs/demo.yaml"), "runs/demo")

Mistakes are found early: config, prompts, seed file and endpoints are checked before any model is loaded.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from ray.exceptions import RayError

from tapir_ray.cli.config_warnings import warnings_about
from tapir_ray.cli.report import conclude, saved
from tapir_ray.cli.suites import check_suites
from tapir_ray.cluster.interrupt import watched
from tapir_ray.cluster.session import session, stopped_by_signals
from tapir_ray.cluster.workers import check_storage, refuse_other_machines, storage_watched
from tapir_ray.config import Config, Simulator, changed
from tapir_ray.config.data import RECORDED, TASKS
from tapir_ray.curriculum import actor, tasks
from tapir_ray.curriculum.measures import load_measure
from tapir_ray.data.files import find_seed, list_files
from tapir_ray.errors import InputError, TapirError
from tapir_ray.llm.engine.health import PROCESSES
from tapir_ray.llm.engine.registry import engine_class
from tapir_ray.llm.engine.watchdog import end_orphans
from tapir_ray.llm.prompts import Prompts
from tapir_ray.llm.roles import Roles
from tapir_ray.methods import layout_of, method_of
from tapir_ray.report.summary import summarise_stopped
from tapir_ray.run.attempts import latest, owned
from tapir_ray.run.fork import fork
from tapir_ray.run.layout import SEED_FILE, LoopLayout
from tapir_ray.run.model_store import written
from tapir_ray.run.progress import Progress
from tapir_ray.run.retry import retry_failed
from tapir_ray.run.run import Run
from tapir_ray.run.trackers import PROGRESS_S, tracked
from tapir_ray.run.trackers.background import users_trackers
from tapir_ray.simulator import Options, running, write_seed
from tapir_ray.steps.context import ROUND_EVENTS, Context
from tapir_ray.steps.early_stop import ended
from tapir_ray.steps.import_rows import import_rows, own_table
from tapir_ray.steps.stop import StopAfter
from tapir_ray.train.attention import check_here, check_on_worker
from tapir_ray.train.chat import dated
from tapir_ray.train.classifier_check import check_classifier
from tapir_ray.train.student_check import check_student
from tapir_ray.transforms.annotators import annotation
from tapir_ray.transforms.classify import check_labels, load_labels
from tapir_ray.transforms.filters.user_function import UserFunction
from tapir_ray.transforms.verifiers import load_verifiers


def launch(config: Config, run_dir: str, until: str = "", start: str = "", fork_of: str = "") -> None:
    """Runs or continues the loop in `run_dir`; progress goes to stderr, the final table to stdout.

    - `until`: a stage to stop after.
    - `start` (`STAGE=PATH`): the user's own table, with which the stage begins.
    - `fork_of`: an older run, whose still valid tables a new run takes over.

    Raises InputError for mistakes that can be found beforehand, and Stopped and StageError as the method does.
    """
    method, layout = method_of(config), loop_of(config)
    if until and until not in layout.stages:
        raise InputError(f"--until {until}: no such stage; the stages are {', '.join(layout.stages)}")
    own = own_table(start, layout)
    with stopped_by_signals():
        if fork_of:
            fork(fork_of, run_dir, config, layout)
        warn(config)
        with started(config, run_dir, labelled=own is not None and own[0] != "classify") as context:
            if own is not None:
                import_rows(context, *own)
            method.run(context, StopAfter(until))
    conclude(method, context)


def retry(run_dir: str, overrides: list[str] | None = None) -> None:
    """Asks again for the failed rows of a run, and redoes the stages that follow.

    The config is that of the last start, with `overrides` (`a.b=c`) of keys that change no results. Raises InputError
    if `run_dir` holds no run, and as `launch` does.
    """
    run = Run.at(run_dir)
    if not run.exists("config.yaml"):
        raise InputError(f"{run.uri} holds no run (no config.yaml)")
    config = changed(run.stored_config(), overrides or [])
    method = method_of(config)
    with stopped_by_signals(), started(config, run_dir) as context:
        retried = retry_failed(context.run, context.config, context.layout)
        for table, rows in retried.items():
            context.progress.say(f"{table}: {rows} failed rows are asked again")
        if not retried:
            context.progress.say("no row failed: nothing to ask again")
        method.run(context, StopAfter())
    conclude(method, context)


def regenerate(config: Config, run_dir: str) -> None:
    """Regenerates the config's dataset in `run_dir`, or continues; as `launch`, but without training.

    Raises InputError for a config without the section `regenerate`.
    """
    if config.regenerate is None:
        raise InputError("the config has no section regenerate: add it, with its operations")
    method = method_of(config)
    with stopped_by_signals():
        if method.asks(config):
            warn(config)
        with started(config, run_dir) as context:
            method.run(context, StopAfter())
    conclude(method, context)


def loop_of(config: Config) -> LoopLayout:
    """Returns the layout of a method that trains. Raises InputError for a config with the section `regenerate`."""
    layout = layout_of(config)
    if not isinstance(layout, LoopLayout):
        raise InputError("the config has a section regenerate: use tapir regenerate, or take the section out")
    return layout


def evaluate(config: Config, run_dir: str) -> None:
    """Runs the suites of `evaluate.suites` on the students of a run; as `launch`, but without training.

    Raises InputError if a round of the run is not trained yet.
    """
    last, run = loop_of(config).checkpoint(config.curriculum.rounds), Run.at(run_dir)
    if run.done(last) is None and ended(run) is None:
        raise InputError(f"{run_dir} has no {last} to evaluate: train its rounds first (tapir run)")
    launch(config, run_dir)


def warn(config: Config) -> None:
    """Prints the warnings about a config to stderr."""
    found = warnings_about(config)
    if method_of(config).trains:
        found += filter(None, [check_here(config.train), dated(config.student)])
    for sentence in found:
        print(f"warning: {sentence}", file=sys.stderr)


@contextmanager
def started(config: Config, run_dir: str, labelled: bool = False, asks: bool | None = None) -> Iterator[Context]:
    """Context manager of a run: checks it, starts simulator and Ray, opens roles and curriculum; closes all on exit.

    `labelled` means that the rows to begin with already have their tasks. `asks` says whether endpoints are checked;
    None checks them if the method sends requests.
    """
    taxonomy = check_offline(config, labelled)
    with ExitStack() as stack:
        run = Run.open(config, run_dir)
        run.attempt = stack.enter_context(owned(run, run.under_way))
        # Engines outlive a killed driver and would keep the memory that the new ones need.
        for folder in (PROCESSES, *(f"{PROCESSES}/{role}" for role in config.endpoints)):
            end_orphans(run.uri_of(folder))
        config = with_seed_file(config, run)
        simulator_url = stack.enter_context(simulator(config)) if config.simulator else None
        if method_of(config).asks(config) if asks is None else asks:
            Roles(config, run.run_id, simulator_url).check()
        stack.enter_context(session(config))
        check_storage(run, config)
        stack.enter_context(storage_watched(run, config))
        if simulator_url is not None:
            refuse_other_machines()
        if warning := check_on_worker(config.train, config.resources.train):
            print(f"warning: {warning}", file=sys.stderr)
        context = stack.enter_context(opened(run, config, taxonomy, simulator_url))
        try:
            yield context
        except TapirError as error:
            with suppress(OSError, RayError):  # storage or Ray may be the reason; the first error counts
                summarise_stopped(context, error)
            raise


@contextmanager
def opened(run: Run, config: Config, taxonomy: tasks.Taxonomy, simulator_url: str | None) -> Iterator[Context]:
    """Context manager that opens the roles and the curriculum actor of a run on a running Ray; closes them on exit."""
    with Roles(config, run.run_id, simulator_url, run.uri, run.attempt) as roles:
        curriculum = actor.start(run.uri, run.run_id, config.model_dump_json(), run.attempt)
        stall_after_s = config.resources.stall_after_s
        progress = Progress(roles.usage, stall_after_s, run.event, roles.batch_s)
        run.progress = progress
        try:
            with tracked(run, config, ROUND_EVENTS) as trackers:

                def tell() -> None:
                    trackers.progress(progress.numbers(), roles.usage_by_kind())

                layout, report = layout_of(config), functools.partial(saved, run.uri)
                with roles.watched(), watched(tell, PROGRESS_S, "trackers"):
                    yield Context(run, config, layout, roles, taxonomy, curriculum, progress, trackers, report)
                with suppress(RayError):  # the last metrics are not worth an error after all work is done
                    tell()
        finally:
            # If another attempt has taken over the run, the actor serves that one.
            if latest(run) == run.attempt:
                actor.remove(curriculum)


def check_offline(config: Config, labelled: bool = False) -> tasks.Taxonomy:
    """Returns the taxonomy of the run. Raises InputError for all that can be checked without Ray, requests and models.

    `labelled` means that the rows already have their tasks, so that `classify.by` is not used.
    """
    method = method_of(config)
    Prompts(config.prompts.dir)
    annotation(config.expand.annotation)
    load_measure(config.curriculum.difficulty.measure)
    load_verifiers(config.judge.verifiers)
    for name in (config.student.engine, *(endpoint.engine for endpoint in config.endpoints.values())):
        engine_class(name)
    UserFunction.of(config)
    users_trackers(config)
    for warning in check_suites(config):
        print(f"warning: {warning}", file=sys.stderr)
    if config.seed_data.path is not None:
        find_seed(config.seed_data)
    for path in config.filter.evaluation_sets:
        list_files(path, "filter.evaluation_sets", "test")
    if config.simulator is not None:
        _check_simulator(config.simulator)
    if method.trains:
        for warning in check_student(config.student, config.train):
            print(f"warning: {warning}", file=sys.stderr)
        check_here(config.train)
    taxonomy = tasks.load(config.curriculum)
    # Only a column of tasks and imported rows can have labels that the taxonomy lacks.
    complete = not taxonomy.from_seed or (config.seed_data.task_column is None and not labelled)
    taxonomy = taxonomy.styling(config.rewrite.tasks, complete)
    if (
        config.classify.by == "none"
        and not labelled
        and method.needs_tasks
        and not taxonomy.from_seed
        and not taxonomy.weights.get(tasks.OTHERS)
    ):
        raise InputError(
            f"classify.by: none gives every row the task {tasks.OTHERS}, which has no weight; give it one in "
            "curriculum.weights (or in the file of curriculum.tasks), or set classify.by to label the rows"
        )
    check_classifier(config.classify)
    if config.classify.by == "deberta" and config.classify.label_rows == 0 and config.classify.model:
        check_labels(load_labels(config.classify.model, config.classify.trust_remote_code), taxonomy.labels)
    return taxonomy


def _check_simulator(settings: Simulator) -> None:
    if settings.path is not None:
        list_files(settings.path, "simulator.path", "all")
    elif settings.scenario not in (RECORDED, TASKS):
        list_files(settings.scenario, "simulator.scenario", "all")


def with_seed_file(config: Config, run: Run) -> Config:
    """Writes the simulator's seed data into the run, if any, and returns the config with its path."""
    if config.simulator is None or config.simulator.seed_rows == 0:
        return config
    path = run.uri_of(SEED_FILE)
    if not run.exists(SEED_FILE):
        with written(run, SEED_FILE) as file:
            settings = config.simulator
            write_seed(file, settings.seed_rows, config.random_seed, settings.seed_error_rate)
    return config.model_copy(update={"seed_data": config.seed_data.model_copy(update={"path": path})})


def simulator(config: Config) -> AbstractContextManager[str]:
    """Context manager of the simulated teacher and judge, a child process; gives its URL."""
    settings = config.simulator
    assert settings is not None
    recorded = settings.scenario == RECORDED
    is_seed = recorded and settings.path is None
    return running(
        Options(
            scenario=settings.scenario,
            seed=config.random_seed,
            latency_s=settings.latency_s,
            judge_noise=settings.judge_noise,
            position_bias=settings.position_bias,
            length_bias=settings.length_bias,
            error_rate=settings.error_rate,
            teacher_error_rate=settings.teacher_error_rate,
            max_requests_per_minute=settings.max_requests_per_minute,
            log=settings.log,
            path=(settings.path or config.seed_data.path) if recorded else None,
            is_seed=int(is_seed),
            split=config.seed_data.split if is_seed else None,
            revision=config.seed_data.revision if is_seed else None,
            skip=(config.seed_data.limit or 0) if is_seed else 0,
            columns=json.dumps(dict(config.seed_data.mapped)) if is_seed else None,
        )
    )
