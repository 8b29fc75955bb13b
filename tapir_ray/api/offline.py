"""Checks of a config that need no Ray, no requests and no models, and warnings about what is valid but risky.

taxonomy = check_offline(config, caller=TERMINAL)      # InputError says what to change
warn(config, TERMINAL)                                 # the judge is the teacher: it may prefer its own answers; …
"""

from __future__ import annotations

from tapir_ray.api.caller import PROGRAM, Caller
from tapir_ray.api.config_warnings import warnings_about
from tapir_ray.api.suites import check_suites
from tapir_ray.config import Config, Simulator
from tapir_ray.config.data import RECORDED, TASKS
from tapir_ray.curriculum import tasks
from tapir_ray.curriculum.measures import load_measure
from tapir_ray.data.files import find_seed, list_files
from tapir_ray.errors import InputError
from tapir_ray.llm.engine.registry import engine_class
from tapir_ray.llm.prompts import Prompts
from tapir_ray.methods import method_of
from tapir_ray.run.trackers.background import users_trackers
from tapir_ray.train.attention import check_here
from tapir_ray.train.chat import dated
from tapir_ray.train.classifier_check import check_classifier
from tapir_ray.train.student_check import check_student
from tapir_ray.transforms.annotators import annotation
from tapir_ray.transforms.classify import check_labels, load_labels
from tapir_ray.transforms.filters.user_function import UserFunction
from tapir_ray.transforms.verifiers import load_verifiers


def warn(config: Config, caller: Caller) -> None:
    """Tells the warnings about a config to the caller."""
    found = warnings_about(config)
    if method_of(config).trains:
        found += filter(None, [check_here(config.train), dated(config.student)])
    for sentence in found:
        caller.warn(sentence)


def check_offline(config: Config, labelled: bool = False, caller: Caller = PROGRAM) -> tasks.Taxonomy:
    """Returns the taxonomy of the run. Raises InputError for all that can be checked without Ray, requests and models.

    `labelled` means that the rows already have their tasks, so that `classify.by` is not used.
    Warnings are told to the caller.
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
        caller.warn(warning)
    if config.seed_data.path is not None:
        find_seed(config.seed_data)
    for path in config.filter.evaluation_sets:
        list_files(path, "filter.evaluation_sets", "test")
    if config.simulator is not None:
        _check_simulator(config.simulator)
    if method.trains:
        for warning in check_student(config.student, config.train):
            caller.warn(warning)
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
