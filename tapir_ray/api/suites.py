"""Suites of a config before its run is opened: to check their settings and to forecast their work."""

from __future__ import annotations

import tempfile

from tapir_ray.config import Config
from tapir_ray.config.evaluate import TAKE_ARGUMENT, split_spec
from tapir_ray.evaluate.registry import suite_of
from tapir_ray.evaluate.suite import Suite
from tapir_ray.llm.roles import Roles
from tapir_ray.methods import layout_of
from tapir_ray.run.layout import LoopLayout
from tapir_ray.run.run import Run
from tapir_ray.train.student_check import check_answering

NOWHERE = "http://127.0.0.1:9/v1"
"""URL for a simulator that is not asked."""


def check_suites(config: Config) -> list[str]:
    """Checks the settings of all suites, and a model that is measured without a training; returns warnings.

    Raises InputError, which says what to change.
    """
    found = suites_to_check(config)
    warnings = [warning for suite in found.values() for warning in suite.check()]
    # A suite with an argument has a harness of its own, which needs no chat template.
    asked = any(split_spec(spec)[0] not in TAKE_ARGUMENT for spec in found)
    if config.evaluate.only and config.student.spec.local and asked:
        check_answering(config.student)
    return warnings


def suites_to_check(config: Config) -> dict[str, Suite]:
    """Returns the suites of `evaluate.suites` by their spec, without a run and with closed roles.

    Empty for a method without students. Raises InputError for a name that cannot be resolved.
    """
    layout = layout_of(config)
    if not isinstance(layout, LoopLayout):
        return {}
    run, roles = Run.at(tempfile.gettempdir()), Roles(config, "check", NOWHERE)
    return {one.suite: suite_of(one.suite, run, config, layout, roles) for one in layout.suites}
