"""Plan of a round, from its scores: a pure function of counts.

    plan = make_plan(1, stats, config, taxonomy)         # δ, α, draws by source and task

`selection.py` has the rules by which difficulties are selected (`curriculum.difficulty.select`), the pool `hard`.

The paper does not say what to do if a pool is too small; these rules are this project's. With n reliable rows, the plan
aims at a mix of as many rows as were scored (or `mix.size` pairs), each at most `mix.max_repeat` times:

- easy · max_repeat + expansions of easy rows ≥ (1 − α) · n;
- hard · max_repeat + expansions of hard rows ≥ α · n;
- hard ≥ curriculum.difficulty.min_hard_share · n (at least 1), if expansions need hard rows as sources.

Expansions are those in the round's training set, without its probes. Those of random rows (`expand.sources`) count in
proportion to the pools. If one of the rules fails, `curriculum.difficulty.on_small_pool` decides:

- `move_threshold` moves δ to the nearest value of the histogram that satisfies all, or comes closest to it. An interval
  of `frontier` gets wider or narrower around its middle. For a `positive` measure such as `mfd` the low end is then
  above 0: if the student is as good, it has nothing to learn.
- `move_alpha` keeps the interval and moves α.
- `stop` ends the run.

A round without a row to draw from is an error. `select: none` needs no scores: all usable rows are hard, and α is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from tapir_ray.config import Config
from tapir_ray.curriculum import sources
from tapir_ray.curriculum.difficulty import EASY, HARD
from tapir_ray.curriculum.measures import load_measure
from tapir_ray.curriculum.plan_warnings import doubts, few_unseen
from tapir_ray.curriculum.quotas import Cell
from tapir_ray.curriculum.record import Record, shared_out
from tapir_ray.curriculum.reweigh import Reweighed, reweighed
from tapir_ray.curriculum.schedule import alpha as scheduled_alpha
from tapir_ray.curriculum.selection import (
    Interval,
    asked_interval,
    moved_alpha,
    moved_interval,
    needs,
)
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
    select: str
    """Rule by which rows are hard: `hard`, `frontier` or `none` (all usable rows are hard)."""
    alpha_asked: float
    alpha: float
    threshold_asked: float | None
    threshold: float | None
    """δ, the lowest difficulty of a hard row; None under `select: none`."""
    ceiling_asked: float | None
    ceiling: float | None
    """The highest difficulty of a hard row; None if there is no upper end."""
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
    weights_asked: dict[str, float] = Field(default_factory=dict)
    """Weights before the update of `curriculum.weights_by: ddk`; empty without one."""
    gaps: dict[str, float] = Field(default_factory=dict)
    """Mean teacher_score − student_score by task, from which the weights were updated; empty without an update."""
    absent_tasks: list[str]
    expand: dict[str, int]
    """Draws by task; they sum to expand.size."""
    sources: dict[str, dict[str, int]]
    """Draws by source (`hard`, `easy`, `random`) and task."""
    noise: float | None
    """σ of a single MFD; None if it was not measured."""
    seen: int
    """Rows of status ok that were trained on before."""
    unseen: int
    """All other rows of status ok."""
    mean_seen: float | None
    """Mean difficulty of rows that were trained on before; it measures memory."""
    mean_unseen: float | None
    """Mean difficulty of all other rows."""
    length_correlation: float | None
    verified: int = 0
    """Rows that a verifier scored."""
    verifier_agreement: float | None = None
    """Share of the verified rows that the judge also scored on which both agree; None if there are none."""
    teacher_score: float | None
    student_score: float | None
    warnings: list[str]

    @property
    def draws(self) -> dict[Cell, int]:
        """Draws from the pools hard and easy as a quota table for `sampling.cutoffs`."""
        return {(pool, task): n for pool in (HARD, EASY) for task, n in self.sources.get(pool, {}).items()}

    @property
    def random_draws(self) -> dict[Cell, int]:
        """Draws from rows of any pool as a quota table; their pool is `random`."""
        return {(sources.RANDOM, task): n for task, n in self.sources.get(sources.RANDOM, {}).items()}

    @property
    def in_words(self) -> str:
        """The decision in one line: `α 0.3, δ 2, 40 hard and 60 easy`."""
        if self.threshold is None:
            return f"α {self.alpha:g}, nothing is selected, {self.hard} rows"
        ends = f"δ {self.threshold:g}" + ("" if self.ceiling is None else f" to {self.ceiling:g}")
        return f"α {self.alpha:g}, {ends}, {self.hard} hard and {self.easy} easy"

    @property
    def weights_in_words(self) -> str | None:
        """The three largest changes of the weights in one line; None without an update."""
        moves = {task: self.weights[task] - asked for task, asked in self.weights_asked.items()}
        most = sorted(moves, key=lambda task: (-abs(moves[task]), task))[:3]
        asked, now, gaps = self.weights_asked, self.weights, self.gaps
        shown = (f"{one} {asked[one]:.3f} to {now[one]:.3f} (gap {gaps[one]:.2f})" for one in most)
        return f"weights by the judge's gap: {', '.join(shown)}" if most else None


@dataclass(frozen=True)
class _Chosen:
    """Selection of a round: the interval asked for, the one that is used, α, and (hard, easy) rows by task."""

    asked: Interval | None
    interval: Interval | None
    alpha: float
    pools: dict[str, tuple[int, int]]
    warnings: list[str] = field(default_factory=list)


def make_plan(
    round_number: int,
    stats: ScoreStats,
    config: Config,
    taxonomy: Taxonomy,
    before: Mapping[str, float] | None = None,
) -> Plan:
    """Returns the plan of a round; `before` are the mixture weights of the plan of the round before.

    Raises StageError, which says what to change, if no row is usable or reliable, if there is no row to draw from, or
    if a pool is too small and `on_small_pool` is `stop`.
    """
    rules = config.curriculum.difficulty
    if rules.select == "none":
        asked, chosen = 1.0, _all_usable(round_number, stats)
    else:
        asked = scheduled_alpha(round_number, config.curriculum.alpha, config.curriculum.alpha_step)
        chosen = _selected(round_number, stats, config, asked)
    pools, interval = chosen.pools, chosen.interval
    moved = Reweighed(taxonomy)
    if config.curriculum.weights_by == "ddk":
        moved = reweighed(stats, config.curriculum.ddk, taxonomy, pools, before or {})
    taxonomy, weights = moved.taxonomy, moved.taxonomy.effective_weights(pools)
    anywhere = taxonomy.effective_weights(stats.usable) if config.expand.sources.random else {}
    rooms = {
        HARD: [task for task, (hard, _) in pools.items() if hard and task in weights],
        EASY: [task for task, (_, easy) in pools.items() if easy and task in weights],
        sources.RANDOM: list(anywhere),
    }
    shares = config.expand.sources.shares
    weights_of = {HARD: weights, EASY: weights, sources.RANDOM: anywhere}
    draws, moved_draws = sources.draws_by_source(config.expand.size, shares, rooms, weights_of)
    hard, easy = (sum(counts[at] for counts in pools.values()) for at in (0, 1))
    if not draws:
        what = " or ".join(source for source, share in shares.items() if share)
        at = f" at {interval}" if interval else ""
        raise StageError(f"round {round_number}: no {what} row among {hard + easy}{at}; {WHAT_TO_CHANGE}")
    absent = taxonomy.absent(pools)
    judged = sum(task.judged for task in stats.by_task.values())
    unreliable = {task: found.unreliable for task, found in stats.by_task.items()}
    return Plan(
        round=round_number,
        select=rules.select,
        alpha_asked=asked,
        alpha=chosen.alpha,
        threshold_asked=chosen.asked and chosen.asked.low,
        threshold=interval and interval.low,
        ceiling_asked=chosen.asked and chosen.asked.high,
        ceiling=interval and interval.high,
        top_fraction=rules.top_fraction,
        hard=hard,
        easy=easy,
        unreliable=stats.unreliable,
        failed=stats.failed,
        filtered=stats.filtered,
        unscored=stats.unscored,
        by_task={
            task: PoolCounts(hard=n_hard, easy=n_easy, unreliable=unreliable.get(task, 0))
            for task, (n_hard, n_easy) in pools.items()
        },
        weights=weights,
        weights_asked=moved.asked,
        gaps=moved.gaps,
        absent_tasks=absent,
        expand=sources.by_task(draws),
        sources=draws,
        noise=stats.noise,
        seen=stats.trained,
        unseen=stats.untrained,
        mean_seen=stats.seen.mean,
        mean_unseen=stats.unseen.mean,
        length_correlation=stats.length_correlation,
        verified=stats.verified,
        verifier_agreement=stats.verifier_agreement,
        teacher_score=sum(task.teacher_milli for task in stats.by_task.values()) / 1000 / judged if judged else None,
        student_score=sum(task.student_milli for task in stats.by_task.values()) / 1000 / judged if judged else None,
        warnings=[
            *chosen.warnings,
            *moved_draws,
            *few_unseen(stats, config),
            *(doubts(stats, interval, config) if interval else []),
            *shared_out(absent),
        ],
    )


WHAT_TO_CHANGE = (
    "lower curriculum.difficulty.threshold, set curriculum.difficulty.top_fraction, or give harder seed data"
)


def _all_usable(round_number: int, stats: ScoreStats) -> _Chosen:
    """Returns the selection of all usable rows, which needs no scores. All are in one pool, so α is 1."""
    if not stats.usable:
        raise StageError(
            f"round {round_number}: no usable row ({stats.unreliable} unreliable, {stats.failed} failed, "
            f"{stats.filtered} filtered of {stats.rows})"
        )
    return _Chosen(None, None, 1.0, {task: (n, 0) for task, n in stats.usable.items()})


def _selected(round_number: int, stats: ScoreStats, config: Config, asked_alpha: float) -> _Chosen:
    """Returns the selection by difficulty, moved as `on_small_pool` says if a pool is too small."""
    rules, histogram = config.curriculum.difficulty, stats.histogram
    if not histogram:
        scores = "the judge's scores and judge.min_teacher_score"
        what_decides = scores if config.measure_needs_judge else f"the values of the measure {rules.measure}"
        raise StageError(
            f"round {round_number}: no reliable row ({stats.unreliable} unreliable, {stats.failed} failed, "
            f"{stats.unscored} unscored of {stats.rows}); see {what_decides}"
        )
    n = sum(histogram.values())
    asked = asked_interval(histogram, rules)
    added = sources.added(round_number, n, sum(stats.unscored_by_task.values()), config)
    need = needs(n, asked_alpha, config, added)
    interval, alpha, warnings = asked, asked_alpha, []
    hard = asked.rows(histogram)
    if need.lack(hard, n - hard):
        small = f"{hard} hard (needs {need.hard}) and {n - hard} easy (needs {need.easy}) of {n} rows at {asked}"
        if rules.on_small_pool == "stop":
            raise StageError(f"round {round_number}: {small}; {WHAT_TO_CHANGE}, or curriculum.difficulty.on_small_pool")
        if rules.on_small_pool == "move_threshold":
            positive = load_measure(rules.measure).positive
            interval = moved_interval(histogram, asked, need, rules.select, positive)
            hard, what = interval.rows(histogram), "δ" if asked.high is None else "interval"
            to = f"{interval.low:g}" if interval.high is None else f"{interval.low:g} to {interval.high:g}"
            moved = f"{what} moved to {to}, {hard} hard and {n - hard} easy"
            warnings.append(f"{small}: {moved if interval != asked else f'no other {what} is better'}")
        else:
            alpha = moved_alpha(hard, n, asked_alpha, config, added)
            warnings.append(f"{small}: α moved from {asked_alpha:g} to {alpha:g}")
    return _Chosen(asked, interval, alpha, stats.pools(interval.low, interval.high), warnings)
