"""Opens what a run needs, cheapest first, and closes everything again.

    with started(load("configs/demo.yaml"), "runs/demo") as context:
        distill(context, StopAfter())

Mistakes are found early: config, prompts, seed file and endpoints are checked before any model is loaded.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from ray.exceptions import RayError

from tapir_ray.api.caller import PROGRAM, Caller, logged
from tapir_ray.api.offline import check_offline
from tapir_ray.api.report import saved
from tapir_ray.cluster.interrupt import watched
from tapir_ray.cluster.logs import kept_after_error
from tapir_ray.cluster.session import session
from tapir_ray.cluster.workers import check_storage, refuse_other_machines, storage_watched
from tapir_ray.config import Config
from tapir_ray.config.data import RECORDED
from tapir_ray.curriculum import actor, tasks
from tapir_ray.errors import TapirError
from tapir_ray.llm.engine.health import PROCESSES
from tapir_ray.llm.engine.watchdog import end_orphans
from tapir_ray.llm.roles import Roles
from tapir_ray.methods import layout_of, method_of
from tapir_ray.report.summary import summarise_stopped
from tapir_ray.run.attempts import latest, owned
from tapir_ray.run.layout import SEED_FILE
from tapir_ray.run.model_store import written
from tapir_ray.run.progress import Progress
from tapir_ray.run.run import Run
from tapir_ray.run.trackers import PROGRESS_S, tracked
from tapir_ray.simulator import Options, running, write_seed
from tapir_ray.steps.context import ROUND_EVENTS, Context
from tapir_ray.train.attention import check_on_worker


@contextmanager
def started(
    config: Config, run_dir: str, labelled: bool = False, asks: bool | None = None, caller: Caller = PROGRAM
) -> Iterator[Context]:
    """Context manager of a run: checks it, starts simulator and Ray, opens roles and curriculum; closes all on exit.

    `labelled` means that the rows to begin with already have their tasks. `asks` says whether endpoints are checked;
    None checks them if the method sends requests.
    """
    taxonomy = check_offline(config, labelled, caller)
    with ExitStack() as stack:
        stack.enter_context(logged(caller))
        run = Run.open(config, run_dir)
        run.attempt = stack.enter_context(owned(run, run.under_way))
        # Engines outlive a killed driver and would keep the memory that the new ones need.
        for folder in (PROCESSES, *(f"{PROCESSES}/{role}" for role in config.endpoints)):
            end_orphans(run.uri_of(folder))
        config = with_seed_file(config, run)
        simulator_url = stack.enter_context(simulator(config)) if config.simulator else None
        if method_of(config).asks(config) if asks is None else asks:
            Roles(config, run.run_id, simulator_url).check()
        logs = stack.enter_context(session(config, caller.signals))
        stack.enter_context(kept_after_error(run, run.attempt, logs))
        check_storage(run, config)
        stack.enter_context(storage_watched(run, config))
        if simulator_url is not None:
            refuse_other_machines()
        if warning := check_on_worker(config.train, config.resources.train):
            caller.warn(warning)
        context = stack.enter_context(opened(run, config, taxonomy, simulator_url, caller))
        try:
            yield context
        except TapirError as error:
            with suppress(OSError, RayError):  # storage or Ray may be the reason; the first error counts
                summarise_stopped(context, error)
            raise


@contextmanager
def opened(
    run: Run, config: Config, taxonomy: tasks.Taxonomy, simulator_url: str | None, caller: Caller = PROGRAM
) -> Iterator[Context]:
    """Context manager that opens the roles and the curriculum actor of a run on a running Ray; closes them on exit."""
    with Roles(config, run.run_id, simulator_url, run.uri, run.attempt) as roles:
        curriculum = actor.start(run.uri, run.run_id, config.model_dump_json(), run.attempt)
        stall_after_s = config.resources.stall_after_s
        progress = Progress(roles.usage, stall_after_s, run.event, roles.batch_s, None if caller.shows else caller.tell)
        run.progress = progress
        try:
            with tracked(run, config, ROUND_EVENTS) as trackers:

                def tell() -> None:
                    trackers.progress(progress.numbers(), roles.usage_by_kind())

                layout, report = layout_of(config), functools.partial(saved, run.uri, caller)
                with roles.watched(), watched(tell, PROGRESS_S, "trackers"):
                    yield Context(run, config, layout, roles, taxonomy, curriculum, progress, trackers, report)
                with suppress(RayError):  # the last metrics are not worth an error after all work is done
                    tell()
        finally:
            # If another attempt has taken over the run, the actor serves that one.
            if latest(run) == run.attempt:
                actor.remove(curriculum)


def with_seed_file(config: Config, run: Run) -> Config:
    """Writes the simulator's seed data into the run, if any, and returns the config with its path."""
    if config.simulator is None or config.simulator.seed_rows == 0:
        return config
    path = run.uri_of(SEED_FILE)
    if not run.exists(SEED_FILE):
        with written(run, SEED_FILE) as file:
            settings = config.simulator
            write_seed(file, settings.seed_rows, config.random_seed, settings.seed_error_rate, settings.seed_families)
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
            revision_error_rate=settings.revision_error_rate,
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
