"""`tapir check CONFIG`: the checks of `tapir run` before it spends anything, and an estimate of the whole run.

    check(load("configs/demo.yaml"), "runs/demo", pilot=50, as_json=False)

Without a pilot the numbers are guesses from the config and the seed file. With a pilot they come from real requests.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from typing import Any, TextIO

from rich.table import Table

from tapir_ray.cli import run as launch
from tapir_ray.cli.suites import suites_to_check
from tapir_ray.config import Config
from tapir_ray.config.engines import spec_of
from tapir_ray.config.evaluate import HOLDOUT_SUITE
from tapir_ray.config.price_source import priced_by
from tapir_ray.cost import control
from tapir_ray.cost.estimate import Estimate
from tapir_ray.cost.estimate import as_json as json_of
from tapir_ray.cost.lengths import over_length
from tapir_ray.cost.pilot import measured
from tapir_ray.cost.seed_sample import Seed, read_seed
from tapir_ray.cost.sizes import BYTES_PER_TOKEN, Sizes, guessed
from tapir_ray.cost.student_work import student_work
from tapir_ray.cost.suites import Forecasts, guessed_answer, suite_lines, suites_assumed, suites_work
from tapir_ray.data.files import find_seed
from tapir_ray.data.storage import sibling_uri
from tapir_ray.errors import InputError
from tapir_ray.evaluate.suite import Forecast
from tapir_ray.llm.roles import Roles
from tapir_ray.methods import method_of
from tapir_ray.report.console import console
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


def check(config: Config, run_dir: str, pilot: int = 0, as_json: bool = False) -> dict[str, Any]:
    """Checks a config, prints the estimate of its run to stdout (a table, or JSON), and returns it as JSON values.

    `pilot` rows are sent through every stage, in a run directory of their own next to `run_dir`. Raises InputError as
    `run` does, before anything is printed. Resources are checked only with a pilot, which needs Ray.
    """
    method = method_of(config)
    if pilot and not method.trains:
        raise InputError(
            "--pilot needs a config that trains, and this one has a section regenerate: leave --pilot out for a guess, "
            "or regenerate a few rows with seed_data.limit and another --run-dir"
        )
    taxonomy = launch.check_offline(config)
    if method.asks(config):
        launch.warn(config)
    for note in find_seed(config.seed_data).left_out if config.seed_data.path is not None else []:
        print(f"seed_data.path {config.seed_data.path}: {note}", file=sys.stderr)
    sizes: Sizes
    if pilot:
        with launch.started(_now(config), sibling_uri(run_dir, f"-pilot-{config.digest()[:8]}")) as context:
            seed = read_seed(context.config)
            sizes = measured(context, seed, pilot)
            place = context.run.uri
        spent: dict[str, Any] | None = context.roles.usage()
    else:
        Run.at(run_dir).refuse_another(config)
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tapir-check-"))
            run = Run.at(folder)
            config = launch.with_seed_file(config, run)
            url = stack.enter_context(launch.simulator(config)) if config.simulator else None
            if method.asks(config):
                Roles(config, "check", url).check()
            seed = read_seed(config) if config.reads_seed_data else Seed()
        sizes, spent, place = guessed(config, seed, taxonomy), None, None
    unlabelled = taxonomy.from_seed and not any(sizes.tasks)
    if taxonomy.from_seed:
        shares = taxonomy.weights if unlabelled else {task: n for task, n in sizes.tasks.items() if task}
        taxonomy = taxonomy.with_seed_counts({task: round(1000 * share) for task, share in shares.items()})
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
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(estimate, report, sys.stdout)
    return report


def forecasts(config: Config, responses: list[str]) -> Forecasts:
    """Returns the forecasts of the config's suites, without the holdout; `responses` are those of the seed data."""
    longest = "x" * (BYTES_PER_TOKEN * config.student.sampling.max_tokens)
    found = {spec: suite for spec, suite in suites_to_check(config).items() if spec != HOLDOUT_SUITE}
    counted: dict[str, tuple[Forecast, Forecast] | None] = {}
    for spec, suite in found.items():
        guess, most = suite.forecast(guessed_answer(responses, config)), suite.forecast(longest)
        counted[spec] = None if guess is None or most is None else (guess, most)
    return counted


def _now(config: Config) -> Config:
    """Returns the config of a pilot: single requests instead of batches, which may take a day, and no trackers."""
    sections = {**config.model_dump(), "trackers": []}
    for role in ("teacher", "judge"):
        if (unbatched := spec_of(sections[role]["engine"]).unbatched) is not None:
            sections[role]["engine"] = unbatched
    return Config.model_validate(sections)


def show(estimate: Estimate, report: dict[str, Any], file: TextIO) -> None:
    """Prints the table, the total, a warning if the budget is too small, and the assumptions."""
    out = console(file)
    pilot = report["pilot_rows"]
    table = Table(title=f"{report['name']}: the whole run, by {f'a pilot of {pilot} rows' if pilot else 'a guess'}")
    for column in ("stage", "role"):
        table.add_column(column)
    for column in ("rows", "calls", "input tokens", "output tokens", "US dollars", "at most tokens", "dollars"):
        table.add_column(column, justify="right")
    for line in estimate.lines:
        table.add_row(
            line.stage,
            line.role,
            f"{line.rows:,.0f}",
            f"{line.size.calls:,.0f}",
            f"{line.size.input:,.0f}",
            f"{line.size.output:,.0f}",
            _dollars(line.cost),
            f"{line.most.tokens:,.0f}",
            _dollars(line.most_cost),
        )
    sizes = [line.size for line in estimate.lines]
    table.add_section()
    table.add_row(
        "total",
        "",
        "",
        f"{sum(size.calls for size in sizes):,.0f}",
        f"{sum(size.input for size in sizes):,.0f}",
        f"{sum(size.output for size in sizes):,.0f}",
        _dollars(estimate.cost()),
        f"{sum(line.most.tokens for line in estimate.lines):,.0f}",
        "",
    )
    out.print(table)
    between = (
        f"{report['tokens_low']:,} to {report['tokens_high']:,}" if pilot else f"at most {report['tokens_high']:,}"
    )
    out.print(f"{report['tokens']:,} tokens ({between})")
    out.print(*_beyond(report), sep="\n", end="")
    if pilot:
        used = report["pilot_usage"].values()
        tokens = sum(role["input_tokens"] + role["output_tokens"] for role in used)
        cost = sum(role["cost"] for role in used)
        out.print(f"pilots have used {tokens:,.0f} tokens, {_dollars(cost)} dollars so far: {report['pilot_dir']}")
    if (work := report["control"]) is not None:
        out.print(
            f"control {work['control']}: {work['student_answers']:,} more answers of the student, and about "
            f"{work['training_tokens']:,} tokens to train on, as many as the rounds train on"
        )
    if (work := report["student"]) is not None and (work["samples"] or work["losses"]):
        out.print(
            f"scoring: at most {work['answers']:,} answers and {work['samples']:,} samples of the student "
            f"({work['tokens_at_most']:,} tokens), and losses of {work['losses']:,} rows"
        )
    for name, suite in report["suites"].items():
        if suite is not None:
            out.print(
                f"suite {name}: {suite['answers']:,} answers and {suite['judge_requests']:,} requests to the judge, "
                f"for {suite['students']} students"
            )
    if (share := report["over_length_share"]) is not None:
        fate = "truncated" if report["over_length"] == "truncate" else "filtered"
        out.print(f"{share:.1%} of the answered seed rows are longer than train.sequence_length and will be {fate}")
    for sentence in report["assumes"]:
        out.print(f"- {sentence}")


def _beyond(report: dict[str, Any]) -> list[str]:
    budget, cost = report["budget"], report["cost"]
    found = []
    if budget["max_tokens"] is not None and report["tokens"] > budget["max_tokens"]:
        found.append(f"budget.max_tokens {budget['max_tokens']:,} will stop the run before its end\n")
    if budget["max_cost"] is not None and cost is not None and cost > budget["max_cost"]:
        found.append(f"budget.max_cost {budget['max_cost']:,} will stop the run before its end\n")
    return found


def _dollars(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.2f}" if value >= 1 else f"{value:.4f}"
