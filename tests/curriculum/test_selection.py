"""Selection by difficulty: the frontier in the middle, its moves, no selection at all, and difficulties that tell
nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.config import Config
from tapir_ray.curriculum.difficulty import with_pool
from tapir_ray.curriculum.mix import make_mix
from tapir_ray.curriculum.plan import Plan
from tapir_ray.curriculum.selection import Interval, asked_interval, intervals
from tapir_ray.curriculum.stats import Moments, ScoreStats, TaskStats, table_stats
from tapir_ray.curriculum.tasks import load
from tapir_ray.errors import StageError
from tests.curriculum.test_difficulty import scored
from tests.curriculum.test_plan import config, planned, stats

WIDE = {0.0: 5, 3.0: 20, 4.0: 20, 5.0: 10, 6.0: 20, 7.0: 20, 10.0: 5}
"""100 rows around the middle, 5."""


def selecting(select: str, **difficulty: Any) -> Config:
    sections = {name: difficulty.pop(name) for name in ("expand", "mix", "alpha") if name in difficulty}
    alpha = {"alpha": sections.pop("alpha")} if "alpha" in sections else {}
    return config(curriculum={"difficulty": {"select": select, **difficulty}, **alpha}, **sections)


def ends(plan: Plan) -> tuple[float | None, ...]:
    return plan.threshold_asked, plan.ceiling_asked, plan.threshold, plan.ceiling


@pytest.mark.parametrize(
    ("fraction", "low", "high", "hard"),
    [(None, 4.0, 6.0, 50), (0.5, 4.0, 6.0, 50), (0.1, 5.0, 5.0, 10), (0.3, 5.0, 5.0, 10), (0.9, 3.0, 7.0, 90)],
)
def test_the_frontier_is_the_share_of_rows_nearest_to_the_middle(
    fraction: float | None, low: float, high: float, hard: int
) -> None:
    """The distances 0, 1, 2 and 5 select 10, 50, 90 and 100 rows. Of 10 and 50 rows, which are equally near to 30, the
    fewer are taken."""
    asked = asked_interval(WIDE, selecting("frontier", top_fraction=fraction).curriculum.difficulty)
    assert asked == Interval(low, high)
    assert asked.rows(WIDE) == hard


def test_distances_from_the_middle_are_exact() -> None:
    """In floats 0.3 is farther from 0.2 than 0.1 is, and one of two equal distances would be left out."""
    assert intervals({0.1: 1, 0.2: 1, 0.3: 1}, "frontier") == [Interval(0.2, 0.2), Interval(0.1, 0.3)]


def test_rows_beyond_both_ends_of_the_frontier_are_easy() -> None:
    plan = planned(stats(Math=WIDE, Art={5.0: 10, 9.0: 10}), selecting("frontier", top_fraction=0.5))
    assert ends(plan) == (4.0, 6.0, 4.0, 6.0)
    assert (plan.select, plan.alpha, plan.hard, plan.easy) == ("frontier", 0.3, 60, 60)
    assert plan.by_task["Art"].model_dump() == {"hard": 10, "easy": 10, "unreliable": 0}
    assert plan.in_words == "α 0.3, δ 4 to 6, 60 hard and 60 easy"
    rows = with_pool(scored([(9.0, 6.0), (9.0, 5.0), (9.0, 3.0), (9.0, 2.0)]), 4.0, 4.0, ceiling=6.0)
    assert rows["pool"].to_pylist() == ["easy", "hard", "hard", "easy"], "difficulties 3, 4, 6 and 7"


def test_a_frontier_that_leaves_too_few_easy_rows_gets_narrower() -> None:
    """0.7 · 100 easy rows, each twice, need 35. The interval 3 to 7 leaves 10, 4 to 6 leaves 50."""
    plan = planned(stats(Math=WIDE), selecting("frontier", top_fraction=0.9))
    assert ends(plan) == (3.0, 7.0, 4.0, 6.0) and (plan.hard, plan.easy) == (50, 50)
    assert plan.warnings[0] == (
        "90 hard (needs 5) and 10 easy (needs 35) of 100 rows at difficulties 3 to 7: interval moved to 4 to 6, 50 "
        "hard and 50 easy"
    )
    kept = planned(stats(Math=WIDE), selecting("frontier", top_fraction=0.9, on_small_pool="move_alpha"))
    assert ends(kept) == (3.0, 7.0, 3.0, 7.0)
    assert kept.alpha == pytest.approx(0.8), "10 easy rows, each twice, are 20 of 100"
    with pytest.raises(StageError, match=r"needs 35\) of 100 rows at difficulties 3 to 7; lower"):
        planned(stats(Math=WIDE), selecting("frontier", top_fraction=0.9, on_small_pool="stop"))


def test_a_frontier_does_not_widen_to_rows_without_anything_to_learn() -> None:
    """α 1 asks for 60 hard rows. The next wider interval, −5 to 5, begins below 0."""
    few = {"alpha": 1.0, "expand": {"size": 1}, "mix": {"max_repeat": 1}, "top_fraction": 0.5}
    plan = planned(stats(Math={-5.0: 15, 0.0: 30, 5.0: 15}), selecting("frontier", **few))
    assert ends(plan) == (0.0, 0.0, 0.0, 0.0)
    assert "no other interval is better" in plan.warnings[0]
    positive = planned(stats(Math={1.0: 15, 6.0: 30, 11.0: 15}), selecting("frontier", **few))
    assert ends(positive) == (6.0, 6.0, 1.0, 11.0)


def test_the_width_of_a_frontier_is_compared_with_the_noise() -> None:
    """Two judgings that differ by ±4 give σ = 4, and the interval 4 to 6 is 2 wide."""
    noisy = stats(Math=WIDE).model_copy(update={"repeats": Moments(n=2, xx=2 * 4000**2)})
    said = " ".join(planned(noisy, selecting("frontier")).warnings)
    assert "the width of the interval = 2 is below 2σ" in said


@pytest.mark.parametrize(
    ("values", "share", "end", "value"),
    [
        ({0.0: 40, 9.0: 60}, "60%", "highest", "9"),
        ({0.0: 60, 9.0: 40}, "60%", "lowest", "0"),
        ({3.0: 9}, "100%", "", "3"),
    ],
)
def test_a_difficulty_that_cannot_discriminate_is_a_warning(
    values: dict[float, int], share: str, end: str, value: str
) -> None:
    said = [one for one in planned(stats(Math=values)).warnings if "tell them apart" in one]
    assert len(said) == 1
    assert said[0].startswith(f"{share} of the reliable rows have the {end}") and f"of the round, {value}:" in said[0]
    for change in ("train.initial_epochs", "a finer judge", "curriculum.difficulty.select frontier or none"):
        assert change in said[0]
    half = stats(Math={0.0: 50, 5.0: 1, 9.0: 49})
    assert not [one for one in planned(half).warnings if "tell them apart" in one], "half is not more than half"


def unscored(**by_task: int) -> ScoreStats:
    return ScoreStats(rows=sum(by_task.values()), unscored=sum(by_task.values()), unscored_by_task=by_task)


def test_without_a_selection_no_score_is_needed_and_alpha_is_1() -> None:
    plan = planned(unscored(Math=30, Art=10), selecting("none"))
    assert (plan.alpha_asked, plan.alpha, plan.hard, plan.easy) == (1.0, 1.0, 40, 0)
    assert ends(plan) == (None,) * 4
    assert plan.by_task["Art"].model_dump() == {"hard": 10, "easy": 0, "unreliable": 0}
    assert plan.expand == {"Math": 91, "Art": 9} == plan.sources["hard"], "weights of 0.167 : 0.017"
    assert not [warning for warning in plan.warnings if "α" in warning], "nobody has asked for another"
    assert plan.in_words == "α 1, nothing is selected, 40 rows"
    mix = make_mix(plan, {("hard", "Math"): (70, 700)}, selecting("none"), load(config().curriculum))
    assert (mix.alpha, mix.share, mix.size) == (1.0, 1.0, 1400)
    with pytest.raises(StageError, match=r"round 1: no usable row \(0 unreliable, 3 failed, 0 filtered of 3\)"):
        planned(ScoreStats(rows=3, failed=3), selecting("none"))


def test_scored_rows_count_without_a_selection_too() -> None:
    """Rows that a user imported may have scores; those below `judge.min_teacher_score` stay out."""
    some = unscored(Art=10).merged(ScoreStats(rows=8, by_task={"Math": TaskStats(histogram={1.0: 5}, unreliable=3)}))
    plan = planned(some, selecting("none"))
    assert (plan.hard, plan.unreliable, plan.noise) == (15, 3, None)
    rows = with_pool(scored([(9.0, 9.0), (3.0, 1.0), (None, None)], status=["ok", "ok", "failed"]), None, 4.0)
    assert rows["pool"].to_pylist() == ["hard", "unreliable", None]


def test_unscored_and_trained_rows_are_counted() -> None:
    rows = scored(
        [(None, None), (None, None), (9.0, 5.0), (None, None)],
        task=["Math", None, "Art", "Math"],
        status=["ok", "ok", "ok", "failed"],
        times_trained=[2, None, 0, 1],
    )
    found = table_stats(rows, 4.0)
    assert (found.unscored, found.unscored_by_task, found.usable) == (2, {"Math": 1}, {"Art": 1, "Math": 1})
    assert (found.trained, found.untrained) == (1, 2), "the failed row is neither"
    assert (planned(found).seen, planned(found).unseen) == (1, 2)
