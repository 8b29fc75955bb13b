"""Settings of the evaluation, and the names of suites."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator, model_validator

from tapir_ray.config.checked_suites import IfEval, LmEval
from tapir_ray.config.judged_suites import AlpacaEval, MtBench
from tapir_ray.config.section import Section, key

HOLDOUT_SUITE = "holdout"
TAKE_ARGUMENT = ("lm_eval",)
"""Registered suites that take an argument: `lm_eval:arc_easy,hellaswag`."""
ASK_JUDGE = ("mt_bench", "alpaca_eval")
"""Registered suites that ask the judge. The holdout asks it if the run's measure does."""
INITIAL, LAST, CONTROL = "initial", "last", "control"
"""Students that the suites measure: before the rounds, after the last round, and the control after the last round."""


class Evaluate(Section):
    """Suites that measure the students. To add one to a finished run, start the run again."""

    suites: list[str] = key(default_factory=lambda: [HOLDOUT_SUITE], invalidates=())
    """Registered suites (`lm_eval:TASK,TASK` with its tasks) or `package.module:Class`."""
    students: list[Literal["initial", "last", "control"]] = key(
        default_factory=lambda: [INITIAL, LAST, CONTROL], invalidates=()
    )
    """Students that the suites measure, besides the holdout, which the rounds measure for all of them."""
    only: bool = key(False, invalidates=())
    """Nothing is trained: `student.model` is measured as it is. `tapir eval MODEL` sets it."""
    mt_bench: MtBench = key(MtBench(), invalidates=())
    alpaca_eval: AlpacaEval = key(AlpacaEval(), invalidates=())
    ifeval: IfEval = key(IfEval(), invalidates=())
    lm_eval: LmEval = key(LmEval(), invalidates=())

    @field_validator("suites")
    @classmethod
    def _each_has_its_table(cls, suites: list[str]) -> list[str]:
        names = [name_of(suite) for suite in suites]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two suites have the name {doubled[0]}, so their tables would collide: name each once")
        if taken := {INITIAL, CONTROL} & set(names):
            raise ValueError(f"no suite can have the name {min(taken)}, which is that of a folder: rename its class")
        for suite in suites:
            if suite.partition(":")[0] in TAKE_ARGUMENT and not split_spec(suite)[1]:
                raise ValueError(f"{suite} needs an argument: write {suite.rstrip(':')}:TASK or several, TASK,TASK")
        return suites

    @model_validator(mode="after")
    def _measures_the_last(self) -> Evaluate:
        if LAST not in self.students:
            raise ValueError("students lacks last, the student that the run is for: add it")
        return self


def split_spec(suite: str) -> tuple[str, str]:
    """Returns (name of a registered suite, or `package.module:Class`; argument, empty without one).

    split_spec("lm_eval:arc_easy,hellaswag")  # ("lm_eval", "arc_easy,hellaswag")
    split_spec("my.suites:Capitals")          # ("my.suites:Capitals", "")
    """
    name, _, argument = suite.partition(":")
    return (name, argument) if name in TAKE_ARGUMENT else (suite, "")


def name_of(suite: str) -> str:
    """Returns the name of a suite and of its table: `holdout`, `lm_eval.arc_easy`, or `Capitals` for `my:Capitals`."""
    name, argument = split_spec(suite)
    if argument:
        # A hyphen separates the names of working tables.
        return ".".join([name, *argument.split(",")]).replace("-", "_").replace("/", "_")
    return name.rpartition(":")[2]
