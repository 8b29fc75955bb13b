"""`tapir compare RUN OTHER`: how much better the students of a run are than those of another, on common holdout rows.

found = compare("runs/a", "runs/b", layout_of)        # JSON values; reads the two folders alone
print_comparison(found, sys.stdout)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from tapir_ray.config import Config
from tapir_ray.config.differences import differences
from tapir_ray.config.evaluate import HOLDOUT_SUITE
from tapir_ray.errors import InputError
from tapir_ray.evaluate.comparison import compared, in_lines
from tapir_ray.evaluate.control_gain import values
from tapir_ray.evaluate.holdout_scores import read_scores
from tapir_ray.evaluate.paired import Gain, in_words, paired_gain, rows_in_words
from tapir_ray.report.stored import stored_run
from tapir_ray.run.layout import Layout, LoopLayout
from tapir_ray.run.run import Run


@dataclass(frozen=True)
class Scored:
    """A run with the holdout scores of its students."""

    run: Run
    layout: LoopLayout
    config: Config
    rounds: dict[int, dict[str, float]]
    """Scores by id of the row, after each round that was scored; round 0 is the student at the start."""

    @property
    def uri(self) -> str:
        return self.run.uri

    @property
    def last(self) -> int:
        return max(self.rounds)


def compare(one: str, other: str, layout_of: Callable[[Config], Layout]) -> dict[str, Any]:
    """Returns the gains of the run `one` over `other` as JSON values.

    `last` has the gain of the last scored round over the other run's last, `rounds` that of each round of both, all
    over the rows of both runs. `suites` compares the last students by each further suite of both runs. `warnings` says
    why the scores may not be comparable. Raises InputError if a folder holds no run with scores, or if the runs have no
    holdout row in common.
    """
    first, second = (scored(uri, layout_of) for uri in (one, other))
    return compare_scored(first, second)


def compare_scored(first: Scored, second: Scored) -> dict[str, Any]:
    """Returns `compare` of two runs that are read already."""
    mine, theirs = first.rounds[first.last], second.rounds[second.last]
    if not mine.keys() & theirs.keys():
        raise InputError(
            f"{first.uri} ({len(mine)} scored holdout rows) and {second.uri} ({len(theirs)}) have no holdout row in "
            "common; the same seed data, holdout and random_seed hold out the same rows"
        )
    gains = {
        number: paired_gain(second.rounds[number], first.rounds[number])
        for number in sorted(first.rounds.keys() & second.rounds.keys())
        if first.rounds[number].keys() & second.rounds[number].keys()
    }
    return {
        "run": first.uri,
        "other": second.uri,
        "common_rows": len(mine.keys() & theirs.keys()),
        "rows_of_run_only": len(mine.keys() - theirs.keys()),
        "rows_of_other_only": len(theirs.keys() - mine.keys()),
        "last": {"rounds": [first.last, second.last], **asdict(paired_gain(theirs, mine))},
        "rounds": [{"round": number, **asdict(gain)} for number, gain in gains.items()],
        "suites": suites_of_both(first, second),
        "warnings": warnings(first.config, second.config),
    }


def suites_of_both(one: Scored, other: Scored) -> dict[str, dict[str, Any]]:
    """Returns how the last students differ (`comparison.compared`), by name of each suite that both runs have run."""
    theirs = {tables.last.name: tables.last for tables in other.layout.suites if other.run.done(tables.last)}
    found = {}
    for tables in one.layout.suites:
        name, table = tables.last.name, tables.last
        # The holdout is compared by round.
        if tables.suite != HOLDOUT_SUITE and name in theirs and one.run.done(table):
            found[name] = compared(one.run, table, other.run, theirs[name], one.config.random_seed)
    return {name: comparison for name, comparison in found.items() if comparison is not None}


def scored(uri: str, layout_of: Callable[[Config], Layout]) -> Scored:
    """Returns a run with the scores of its students. Raises InputError for a run without any."""
    run = stored_run(uri)
    config = run.stored_config()
    layout = layout_of(config)
    if not isinstance(layout, LoopLayout):
        raise InputError(f"{run.uri} is a regeneration, which trains no student to compare")
    trained = sum(run.done(one.checkpoint) is not None for one in layout.rounds)
    if run.done(layout.evaluation):
        layout = layout.ended_after(trained)  # it may have ended early, and has evaluated that student
    found = {number: values(read_scores(run, layout.judged_holdout(number))) for number in range(trained + 1)}
    found = {number: scores for number, scores in found.items() if scores}
    if not found:
        raise InputError(f"{run.uri} has no scores of the holdout yet: let it score a round first")
    return Scored(run, layout, config, found)


def warnings(one: Config, other: Config) -> list[str]:
    """Returns a sentence if the two runs were judged in different ways."""
    changed = differences(other, one)
    keys = [key for key in changed if key.startswith(("judge.", "prompts."))]
    # The teacher is the judge, or wrote the answers that the judge sees next to the student's.
    by_teacher = any(
        config.judge.same_as == "teacher" or config.seed_data.responses != "keep" for config in (one, other)
    )
    keys += [key for key in changed if key in ("teacher.model", "seed_data.responses") and by_teacher]
    if not keys:
        return []
    values_of = "; ".join(f"{key}: {changed[key][1]!r} and {changed[key][0]!r}" for key in keys)
    return [f"the runs were judged in different ways ({values_of}), so the difference may be the judges'"]


def print_comparison(found: dict[str, Any], file: TextIO) -> None:
    """Prints a comparison for people: a line for the last rounds, and one for each round of both runs."""

    def line(of: dict[str, Any]) -> str:
        gain = Gain(**{name: of[name] for name in ("mean", "low", "high", "rows", "left_out")})
        says = {1: "better", -1: "worse", 0: "no difference is shown"}[gain.sign]
        return f"{in_words(gain)} ({rows_in_words(gain)}): {says}"

    print(f"{found['run']} over {found['other']}, on the holdout rows of both", file=file)
    print(
        f"{found['common_rows']} rows are common, {found['rows_of_run_only']} only in the first and "
        f"{found['rows_of_other_only']} only in the second",
        file=file,
    )
    for sentence in found["warnings"]:
        print(f"warning: {sentence}", file=file)
    mine, theirs = found["last"]["rounds"]
    print(f"last round ({mine}, of the other {theirs}): {line(found['last'])}", file=file)
    for entry in found["rounds"]:
        print(f"round {entry['round']}: {line(entry)}", file=file)
    for name, comparison in found["suites"].items():
        for text in in_lines(comparison, "the first", "the second"):
            print(f"{name}: {text}", file=file)
