"""Reasons to distrust the difficulties of a round, which its plan warns about."""

from __future__ import annotations

from tapir_ray.config import Config
from tapir_ray.curriculum.measures import load_measure
from tapir_ray.curriculum.measures.mfd import mfd
from tapir_ray.curriculum.selection import Interval, floor_or_ceiling
from tapir_ray.curriculum.stats import ScoreStats

MAX_LENGTH_CORRELATION = 0.5
LEAST_AGREEMENT, FEWEST_COMPARED = 0.8, 10
"""Agreement of verifiers and judge below which a plan warns, and the rows that it must be measured on."""


def few_unseen(stats: ScoreStats, config: Config) -> list[str]:
    """Returns a warning if the rows that were not trained on do not fill `score.max_rows`."""
    if config.score.candidates == "all" or stats.rows >= config.score.max_rows:
        return []
    return [
        f"score.candidates unseen leaves {stats.rows} candidates of score.max_rows {config.score.max_rows}: lower "
        "train.initial_share, raise expand.probe_share, or give more seed data"
    ]


def doubts(stats: ScoreStats, interval: Interval, config: Config) -> list[str]:
    """Returns the reasons to distrust the difficulties of this round."""
    warnings = floor_or_ceiling(stats.histogram, config.curriculum.difficulty.select)
    # σ is of the MFD; under another measure δ has other units.
    if load_measure(config.curriculum.difficulty.measure) is mfd:
        # The noise moves a row across δ, or out of an interval that is narrower than it.
        size = interval.low if interval.high is None else interval.high - interval.low
        what = "δ" if interval.high is None else "the width of the interval"
        if stats.noise is not None and size < 2 * stats.noise:
            warnings.append(
                f"{what} = {size:g} is below 2σ = {2 * stats.noise:.2f} of the judge: part of the hard rows is noise"
            )
        if stats.noise is None and (why := _unmeasured(stats, config)):
            warnings.append(f"σ of the judge is not measured, so {what} cannot be compared with 2σ: {why}")
    agreement = stats.verifier_agreement
    if agreement is not None and stats.compared >= FEWEST_COMPARED and agreement < LEAST_AGREEMENT:
        warnings.append(
            f"verifiers and judge agree on {agreement:.0%} of {stats.compared} rows: look at the scored rows "
            "with a judged_mfd"
        )
    length = stats.length_correlation
    if length is not None and abs(length) > MAX_LENGTH_CORRELATION:
        warnings.append(f"scores follow the length of answers (correlation {length:.2f})")
    return warnings


def _unmeasured(stats: ScoreStats, config: Config) -> str | None:
    """Returns why the requested second judging does not measure noise; None if it was not requested or had few rows."""
    if not config.judge.repeat_share:
        return None
    if config.judge.repeated_at(config.judge_endpoint) == 0.0:
        return "at temperature 0 a reply repeats itself; set judge.repeat_temperature"
    if stats.repeats_same > 1:
        return f"the second judging of all {stats.repeats_same} rows repeated the first word for word"
    return None
