"""Checks of `tapir run` before it spends anything, and a forecast of the whole run.

    found = forecast(load("configs/demo.yaml"), "runs/demo", pilot=50)
    found.estimate.cost(), found.report["tokens"]

Without a pilot the numbers are guesses from the config and the seed file. With a pilot they come from real requests.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from tapir_ray.api.caller import PROGRAM, Caller, logged
from tapir_ray.api.checks import Finding, Subject, checked
from tapir_ray.api.offline import check_offline, warn
from tapir_ray.api.opening import simulator, started, with_seed_file
from tapir_ray.api.suites import suites_to_check
from tapir_ray.config import Config
from tapir_ray.config.engines import spec_of
from tapir_ray.config.evaluate import HOLDOUT_SUITE
from tapir_ray.config.price_source import priced_by
from tapir_ray.cost import control
from tapir_ray.cost.estimate import Estimate, Line
from tapir_ray.cost.estimate import as_json as json_of
from tapir_ray.cost.lengths import over_length
from tapir_ray.cost.pilot import measured
from tapir_ray.cost.seed_sample import Seed, read_seed
from tapir_ray.cost.size import BYTES_PER_TOKEN
from tapir_ray.cost.sizes import Sizes, guessed, with_shares
from tapir_ray.cost.student_work import student_work
from tapir_ray.cost.suites import Forecasts, guessed_answer, suite_lines, suites_assumed, suites_work
from tapir_ray.data.files import find_seed
from tapir_ray.data.storage import sibling_uri
from tapir_ray.errors import InputError
from tapir_ray.evaluate.suite import Forecast as SuiteForecast
from tapir_ray.llm.roles import Roles
from tapir_ray.methods import method_of
from tapir_ray.run.run import Run

UNLABELLED = (
    "the seed rows have no tasks yet, so curriculum.tasks: seed is taken for the published shares; --pilot labels some "
    "rows"
)
ASSUMED = "retries after errors are not counted"
GUESSED = (
    "the resources of the cluster are not checked here; --pilot and run check them",
    "one token for every 4 bytes of the prompts and of the seed data",
    "120 tokens for a judge's reply and 4 for a label; a new instruction is as long as a seed instruction, a new answer"
    " 1.3 times a seed answer, and a student's answer as long as the teacher's, up to student.sampling.max_tokens",
    "no new instruction is filtered; `at most` counts one token for every byte, all attempts and all tokens that "
    "max_tokens allows: a budget of that size never stops the run",
)
PILOT = (
    "the run's rows are like the pilot's rows of the same task; the 95 % interval covers chance only",
    "a part of the teacher's answer replaced the answer of the student, which is not trained yet",
    "generated rows repeat other rows as often as the pilot's repeated the seed data, and no classifier filters them",
)


@dataclass(frozen=True)
class Forecast:
    """Forecast of a run."""

    estimate: Estimate
    """Requests, tokens and price by stage and role."""
    report: dict[str, Any]
    """Everything that is known, as JSON values: `tapir check --json`."""
    checks: list[Finding]
    """What is fine, what is risky, what will fail, and what to change."""
    warnings: tuple[str, ...] = ()
    """Sentences on what is valid but risky."""

    @property
    def cost(self) -> float | None:
        """US dollars; None if the price of a role is unknown."""
        return self.estimate.cost()

    @property
    def tokens(self) -> float:
        """Input and output tokens of all requests."""
        return self.estimate.tokens()[0]

    @property
    def most_tokens(self) -> float:
        """Upper end of a 95 % interval with a pilot, else a bound that a run cannot exceed."""
        return self.estimate.tokens()[2]

    @property
    def lines(self) -> list[Line]:
        """Requests, tokens and dollars by stage and role."""
        return self.estimate.lines

    @property
    def assumes(self) -> list[str]:
        """Assumptions of the numbers, a sentence each."""
        found: list[str] = self.report["assumes"]
        return found


def forecast(config: Config, run_dir: str, pilot: int = 0, caller: Caller = PROGRAM) -> Forecast:
    """Checks a config and returns the forecast of its run.

    `pilot` rows are sent through every stage, in a run directory of their own next to `run_dir`. Raises InputError as
    `launch` does. Resources are checked only with a pilot, which needs Ray.
    """
    method = method_of(config)
    if pilot and not method.trains:
        raise InputError(
            "--pilot needs a config that trains, and this one has a section regenerate: leave --pilot out for a guess, "
            "or regenerate a few rows with seed_data.limit and another --run-dir"
        )
    told: list[str] = []
    caller = caller.noting(told)
    taxonomy = check_offline(config, caller=caller)
    if method.asks(config):
        warn(config, caller)
    for note in find_seed(config.seed_data).left_out if config.seed_data.path is not None else []:
        caller.tell(f"seed_data.path {config.seed_data.path}: {note}")
    sizes: Sizes
    if pilot:
        folder = sibling_uri(run_dir, f"-pilot-{config.digest()[:8]}")
        with started(without_batches(config), folder, caller=caller) as context:
            seed = read_seed(context.config)
            sizes = measured(context, seed, pilot)
            place = context.run.uri
        spent: dict[str, Any] | None = context.roles.usage()
    else:
        Run.at(run_dir).refuse_another(config)
        with logged(caller), ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tapir-check-"))
            run = Run.at(folder)
            config = with_seed_file(config, run)
            url = stack.enter_context(simulator(config)) if config.simulator else None
            if method.asks(config):
                Roles(config, "check", url).check()
            seed = read_seed(config) if config.reads_seed_data else Seed()
        sizes, spent, place = guessed(config, seed, taxonomy), None, None
    unlabelled = taxonomy.from_seed and not any(sizes.tasks)
    taxonomy = with_shares(taxonomy, sizes)
    counted = forecasts(config, [row["response"] for row in seed.sample if row["response"] is not None])
    estimate = Estimate([*method.estimate(config, seed, taxonomy, sizes).lines, *suite_lines(config, counted)])
    assumed = [ASSUMED, *method.assumes, *suites_assumed(config, counted), *(PILOT if pilot else GUESSED)]
    listed = priced_by(config) if method.asks(config) else None
    if listed is not None:
        assumed.append(listed)
    work = control.control_work(config, seed) if method.trains else None
    assumed += [control.ASSUMED] if work else []
    assumed += [UNLABELLED] if unlabelled else []
    if config.curriculum.stop_when != "never":
        assumed.append("all rounds are counted; curriculum.stop_when may end the run before")
    notes = [unused] if (unused := seed.notes.sentence("seed data")) is not None else []
    report = {
        "name": config.name,
        "pilot_rows": pilot,
        **json_of(estimate),
        "budget": config.budget.model_dump(),
        "pilot_usage": spent,
        "pilot_dir": place,
        "listed_prices": listed,
        "control": work,
        "student": student_work(config, seed) if method.trains else None,
        "suites": suites_work(config, counted),
        "over_length_share": over_length(config, seed),
        "over_length": config.train.over_length,
        "unused_columns": dict(seed.notes.unused),
        "assumes": [*notes, *assumed],
    }
    warnings = list(dict.fromkeys(told))
    checks = checked(Subject(config, run_dir, seed, sizes, report, warnings))
    return Forecast(estimate, {**report, "checks": [asdict(one) for one in checks]}, checks, tuple(warnings))


def forecasts(config: Config, responses: list[str]) -> Forecasts:
    """Returns the forecasts of the config's suites, without the holdout; `responses` are those of the seed data."""
    longest = "x" * (BYTES_PER_TOKEN * config.student.sampling.max_tokens)
    found = {spec: suite for spec, suite in suites_to_check(config).items() if spec != HOLDOUT_SUITE}
    counted: dict[str, tuple[SuiteForecast, SuiteForecast] | None] = {}
    for spec, suite in found.items():
        guess, most = suite.forecast(guessed_answer(responses, config)), suite.forecast(longest)
        counted[spec] = None if guess is None or most is None else (guess, most)
    return counted


def without_batches(config: Config) -> Config:
    """Returns the config of a pilot: single requests instead of batches, which may take a day, and no trackers."""
    sections = {**config.model_dump(), "trackers": []}
    for role in ("teacher", "judge"):
        if (unbatched := spec_of(sections[role]["engine"]).unbatched) is not None:
            sections[role]["engine"] = unbatched
    return Config.model_validate(sections)
