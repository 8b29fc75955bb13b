"""Plan of a round, from its scores: a pure function of counts.

    plan = make_plan(1, stats, config, taxonomy)         # δ, α, draws by task

The paper does not say what to do if a pool is too small; these rules are this project's. With n reliable rows, the plan
aims at a mix of as many rows as were scored (or `mix.size` pairs), each at most `mix.max_repeat` times:

- easy · max_repeat ≥ (1 − α) · n;
- hard · max_repeat + expand.size ≥ α · n, since expansions add to the hard pool, and
  hard ≥ curriculum.difficulty.min_hard_share · n (at least 1), since expansions need sources.

If one of them fails, `curriculum.difficulty.on_small_pool` decides:

- `move_threshold` moves δ to the nearest value of the histogram that satisfies both, or comes closest to it. For a
  `positive` measure such as `mfd` that value is above 0: where the student is as good, it has nothing to learn.
- `move_alpha` keeps δ and moves α.
- `stop` ends the run.

A hard pool that is still empty is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from tapir_ray.config import Config
from tapir_ray.curriculum.difficulty import HARD
from tapir_ray.curriculum.measures import load_measure
from tapir_ray.curriculum.measures.mfd import mfd
from tapir_ray.curriculum.quotas import Cell, apportion, exact, round_half_up
from tapir_ray.curriculum.record import Record, shared_out
from tapir_ray.curriculum.schedule import alpha as scheduled_alpha
from tapir_ray.curriculum.stats import ScoreStats
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.errors import StageError


class PoolCounts(Record):
    hard: int
    easy: int
    unreliable: int


class Plan(Record):
    """Decisions of a round. `alpha_asked` is what the configuration says, `alpha` what is done; likewise for δ."""

    round: int
    alpha_asked: float
    alpha: float
    threshold_asked: float
    threshold: float
    top_fraction: float | None
    hard: int
    easy: int
    unreliable: int
    failed: int
    filtered: int
    """Rows that the judge refused to score."""
    unscored: int
    by_task: dict[str, PoolCounts]
    weights: dict[str, float]
    """Mixture weights over the tasks that have rows."""
    absent_tasks: list[str]
    expand: dict[str, int]
    """Draws from the hard rows of each task; they sum to expand.size."""
    noise: float | None
    """σ of a single MFD; None if it was not measured."""
    mean_seen: float | None
    """Mean difficulty of rows that were trained on before; it measures memory."""
    mean_unseen: float | None
    """Mean difficulty of all other rows."""
    length_correlation: float | None
    teacher_score: float | None
    student_score: float | None
    warnings: list[str]

    @property
    def draws(self) -> dict[Cell, int]:
        """`expand` as a quota table for `sampling.cutoffs`."""
        return {(HARD, task): n for task, n in self.expand.items()}


def make_plan(round_number: int, stats: ScoreStats, config: Config, taxonomy: Taxonomy) -> Plan:
    """Returns the plan of a round.

    Raises StageError, which says what to change, if no row is hard or reliable, or if a pool is too small and
    `on_small_pool` is `stop`.
    """
    rules = config.curriculum.difficulty
    alpha_asked = scheduled_alpha(round_number, config.curriculum.alpha, config.curriculum.alpha_step)
    histogram = stats.histogram
    if not histogram:
        scores = "the judge's scores and judge.min_teacher_score"
        what_decides = scores if config.measure_needs_judge else f"the values of the measure {rules.measure}"
        raise StageError(
            f"round {round_number}: no reliable row ({stats.unreliable} unreliable, {stats.failed} failed, "
            f"{stats.unscored} unscored of {stats.rows}); see {what_decides}"
        )
    n = sum(histogram.values())
    asked = rules.threshold if rules.top_fraction is None else _quantile(histogram, rules.top_fraction)
    hard_need, easy_need = _needs(n, alpha_asked, config)
    delta, alpha, warnings = asked, alpha_asked, []
    hard = _hard(histogram, asked)
    if hard < hard_need or n - hard < easy_need:
        small = f"{hard} hard (needs {hard_need}) and {n - hard} easy (needs {easy_need}) of {n} rows at δ = {asked:g}"
        if rules.on_small_pool == "stop":
            raise StageError(f"round {round_number}: {small}; {WHAT_TO_CHANGE}, or curriculum.difficulty.on_small_pool")
        if rules.on_small_pool == "move_threshold":
            delta = _moved(histogram, asked, hard_need, easy_need, positive=load_measure(rules.measure).positive)
            hard = _hard(histogram, delta)
            moved = (
                f"δ moved to {delta:g}, {hard} hard and {n - hard} easy" if delta != asked else "no other δ is better"
            )
            warnings.append(f"{small}: {moved}")
        else:
            alpha = _moved_alpha(hard, n, alpha_asked, config)
            warnings.append(f"{small}: α moved from {alpha_asked:g} to {alpha:g}")
    pools = stats.pools(delta)
    weights = taxonomy.effective_weights(pools)
    sources = {task: config.expand.size for task, (n_hard, _) in pools.items() if n_hard and task in weights}
    if not sources:
        raise StageError(f"round {round_number}: no hard row among {n} at δ = {delta:g}; {WHAT_TO_CHANGE}")
    absent = taxonomy.absent(pools)
    judged = sum(task.judged for task in stats.by_task.values())
    return Plan(
        round=round_number,
        alpha_asked=alpha_asked,
        alpha=alpha,
        threshold_asked=asked,
        threshold=delta,
        top_fraction=rules.top_fraction,
        hard=hard,
        easy=n - hard,
        unreliable=stats.unreliable,
        failed=stats.failed,
        filtered=stats.filtered,
        unscored=stats.unscored,
        by_task={
            task: PoolCounts(hard=n_hard, easy=n_easy, unreliable=stats.by_task[task].unreliable)
            for task, (n_hard, n_easy) in pools.items()
        },
        weights=weights,
        absent_tasks=absent,
        expand=apportion(config.expand.size, sources, weights),
        noise=stats.noise,
        mean_seen=stats.seen.mean,
        mean_unseen=stats.unseen.mean,
        length_correlation=stats.length_correlation,
        teacher_score=sum(task.teacher_milli for task in stats.by_task.values()) / 1000 / judged if judged else None,
        student_score=sum(task.student_milli for task in stats.by_task.values()) / 1000 / judged if judged else None,
        warnings=warnings + _warnings(stats, delta, config) + shared_out(absent),
    )


WHAT_TO_CHANGE = (
    "lower curriculum.difficulty.threshold, set curriculum.difficulty.top_fraction, or give harder seed data"
)


def _hard(histogram: Mapping[float, int], delta: float) -> int:
    return sum(n for value, n in histogram.items() if value >= delta)


def _needs(n: int, alpha: float, config: Config) -> tuple[int, int]:
    """Returns the fewest (hard, easy) rows that a round needs, by the rules at the top of this file."""
    rows = n if config.mix.size is None or config.mix.unit == "tokens" else min(n, config.mix.size)
    repeat, share = config.mix.max_repeat, exact(alpha)
    hard = max(
        1,
        math.ceil(exact(config.curriculum.difficulty.min_hard_share) * n),
        math.ceil((share * rows - config.expand.size) / repeat),
    )
    return hard, math.ceil((1 - share) * rows / repeat)


def _quantile(histogram: Mapping[float, int], fraction: float) -> float:
    """Returns the threshold whose hard rows are nearest to `fraction` of all; of two equally near, the higher one."""
    target = round_half_up(exact(fraction) * sum(histogram.values()))
    return min(histogram, key=lambda value: (abs(_hard(histogram, value) - target), -value))


def _moved(histogram: Mapping[float, int], asked: float, hard_need: int, easy_need: int, positive: bool) -> float:
    """Returns the value of the histogram with the fewest rows missing in both pools; of equals, the nearest to `asked`.

    `asked` itself is a candidate if it leaves a hard row, and the result if there is no candidate.
    """
    n = sum(histogram.values())
    allowed = [value for value in histogram if value > 0.0 or not positive]
    if _hard(histogram, asked):
        allowed.append(asked)

    def lack(value: float) -> int:
        hard = _hard(histogram, value)
        return max(0, hard_need - hard) + max(0, easy_need - (n - hard))

    return min(allowed, key=lambda value: (lack(value), abs(value - asked), -value), default=asked)


def _moved_alpha(hard: int, n: int, alpha: float, config: Config) -> float:
    """Returns the α nearest to `alpha` that a mix of all n rows can have; expansions count as hard."""
    repeat = config.mix.max_repeat
    # Exact fractions, so that only the last line rounds.
    least = 1 - Fraction((n - hard) * repeat, n)
    most = Fraction(hard * repeat + config.expand.size, n)
    # 12 digits as in `schedule.alpha`, so that moved and scheduled values compare equal.
    return float(round(min(max(exact(alpha), least, Fraction(0)), most, Fraction(1)), 12))


def _warnings(stats: ScoreStats, delta: float, config: Config) -> list[str]:
    """Returns the reasons to distrust the difficulties of this round."""
    warnings = []
    # σ is of the MFD; under another measure δ has other units.
    if load_measure(config.curriculum.difficulty.measure) is mfd:
        if stats.noise is not None and delta < 2 * stats.noise:
            warnings.append(
                f"δ = {delta:g} is below 2σ = {2 * stats.noise:.2f} of the judge: part of the hard rows is noise"
            )
        if stats.noise is None and (why := _unmeasured(stats, config)):
            warnings.append(f"σ of the judge is not measured, so δ cannot be compared with 2σ: {why}")
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


MAX_LENGTH_CORRELATION = 0.5
