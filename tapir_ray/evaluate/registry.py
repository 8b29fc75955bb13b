"""Evaluation suites of a config, by name.

suites(run, config, layout, roles)[layout.evaluation].summary(layout.evaluation).mean
"""

from __future__ import annotations

from tapir_ray.config import Config
from tapir_ray.config.evaluate import split_spec
from tapir_ray.config.registry import resolve
from tapir_ray.errors import InputError
from tapir_ray.evaluate.alpaca_eval import AlpacaEvalSuite
from tapir_ray.evaluate.holdout import HoldoutSuite
from tapir_ray.evaluate.ifeval import IfEvalSuite
from tapir_ray.evaluate.lm_eval import LmEvalSuite
from tapir_ray.evaluate.mt_bench import MtBenchSuite
from tapir_ray.evaluate.suite import Suite
from tapir_ray.llm.roles import Roles
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run

SUITES: dict[str, type[Suite]] = {
    "holdout": HoldoutSuite,
    "ifeval": IfEvalSuite,
    "mt_bench": MtBenchSuite,
    "alpaca_eval": AlpacaEvalSuite,
    "lm_eval": LmEvalSuite,
}


def suite_class(spec: str) -> type[Suite]:
    """Returns the suite that `evaluate.suites` names: one of SUITES or `package.module:Class`.

    Raises InputError for a name that cannot be resolved, or that is not a suite.
    """
    found = resolve(split_spec(spec)[0], SUITES, what="evaluate.suites")
    # `resolve` returns any object of that name, also a function or an instance.
    if not (isinstance(found, type) and issubclass(found, Suite)):
        raise InputError(f"evaluate.suites: {spec!r} is not a subclass of tapir_ray.evaluate.suite.Suite")
    return found


def suites(run: Run, config: Config, layout: LoopLayout, roles: Roles) -> dict[Table, Suite]:
    """Returns the suites of `evaluate.suites`, by the table of their results for the last student."""
    return {one.last: suite_of(one.suite, run, config, layout, roles) for one in layout.suites}


def suite_of(spec: str, run: Run, config: Config, layout: LoopLayout, roles: Roles) -> Suite:
    """Returns the suite that `spec` names, with its argument. Raises InputError as `suite_class` does."""
    return suite_class(spec)(run, config, layout, roles, split_spec(spec)[1])
