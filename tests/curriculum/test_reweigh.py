"""Weights by DDK: the formula worked by hand, bounds, rounds that follow each other, and mixes."""

from __future__ import annotations

import math

import pytest

from tapir_ray.config import parse
from tapir_ray.config.curriculum import Ddk
from tapir_ray.curriculum import tasks
from tapir_ray.curriculum.mix import make_mix
from tapir_ray.curriculum.plan import Plan, make_plan
from tapir_ray.curriculum.reweigh import updated, with_weights
from tapir_ray.curriculum.stats import ScoreStats, TaskStats
from tapir_ray.errors import InputError

SMALL = {"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}, "expand": {"size": 100}}
DDK = parse({**SMALL, "curriculum": {"weights_by": "ddk", "weights": {"Math": 0.5, "Art": 0.25, "Law": 0.25}}})


def stats(**gaps: float) -> ScoreStats:
    """Returns statistics of ten judged rows a task, whose student is `gap` points below the teacher's 9."""
    found = {
        task: TaskStats(
            histogram={0.0: 5, 4.0: 5}, judged=10, teacher_milli=90_000, student_milli=round(1e4 * (9 - gap))
        )
        for task, gap in gaps.items()
    }
    return ScoreStats(rows=10 * len(found), by_task=dict(sorted(found.items())))


def planned(round_number: int, found: ScoreStats, before: Plan | None = None) -> Plan:
    taxonomy = tasks.load(DDK.curriculum)
    return make_plan(round_number, found, DDK, taxonomy, before and before.weights)


def test_the_update_worked_by_hand() -> None:
    """Factors exp(2 · 4.5 / 9) = e and exp(0) = 1: e / (e + 1) = 0.7311; half of it and half of 0.5 are 0.6155."""
    even = {"Art": 0.5, "Math": 0.5}
    found = updated(even, {"Art": 0.0, "Math": 4.5}, even, Ddk())
    assert found == pytest.approx({"Art": 0.3845, "Math": 0.6155}, abs=1e-4)
    assert found["Math"] == pytest.approx(0.5 * math.e / (math.e + 1) + 0.25)
    assert updated(even, {"Art": 3.0, "Math": 3.0}, even, Ddk()) == pytest.approx(even), "equal gaps move nothing"
    assert updated(even, {"Art": 0.0, "Math": 9.0}, even, Ddk(strength=0.0)) == pytest.approx(even)


def test_weights_stay_within_their_bounds_whatever_the_judge_says() -> None:
    """With share 0.5 a weight never falls below half of its weight in the taxonomy."""
    base, weights = {"Art": 0.2, "Math": 0.8}, {"Art": 0.2, "Math": 0.8}
    for _ in range(50):
        weights = updated(weights, {"Art": 9.0, "Math": -9.0}, base, Ddk())
        assert sum(weights.values()) == pytest.approx(1.0)
    assert weights["Math"] > 0.4 and weights["Art"] < 0.6


def test_a_plan_shows_weights_asked_gaps_and_weights_next_and_draws_by_them() -> None:
    first = planned(1, stats(Math=0.0, Art=4.5, Law=0.0))
    assert first.weights_asked == {"Art": 0.25, "Law": 0.25, "Math": 0.5}
    assert first.gaps == {"Art": 4.5, "Law": 0.0, "Math": 0.0}
    art = 0.5 * 0.25 * math.e / (0.25 * math.e + 0.75) + 0.125
    assert first.weights["Art"] == pytest.approx(art) and sum(first.weights.values()) == pytest.approx(1.0)
    assert first.expand["Art"] == round(100 * art)
    assert first.weights_in_words == (
        f"weights by the judge's gap: Art 0.250 to {art:.3f} (gap 4.50), "
        f"Math 0.500 to {first.weights['Math']:.3f} (gap 0.00), Law 0.250 to {first.weights['Law']:.3f} (gap 0.00)"
    )
    second = planned(2, stats(Math=0.0, Art=0.0, Law=0.0), first)
    assert second.weights_asked == pytest.approx(first.weights), "a round begins with the weights of the one before"
    assert 0.25 < second.weights["Art"] < first.weights["Art"], "and without a gap they return to the taxonomy's"


def test_a_task_without_judged_rows_has_the_mean_gap_and_no_rows_change_nothing() -> None:
    found = stats(Math=2.0, Art=4.0)
    unjudged = found.model_copy(update={"by_task": {**found.by_task, "Law": TaskStats(histogram={0.0: 5, 4.0: 5})}})
    assert planned(1, unjudged).gaps == {"Art": 4.0, "Law": 3.0, "Math": 2.0}
    none = ScoreStats(rows=10, by_task={"Math": TaskStats(histogram={0.0: 5, 4.0: 5})})
    assert planned(1, none).weights == {"Math": 1.0}


def test_the_mix_has_the_weights_of_its_plan() -> None:
    plan = planned(1, stats(Math=0.0, Art=4.5, Law=0.0))
    cells = {(pool, task): (100, 1000) for pool in ("hard", "easy") for task in ("Math", "Art", "Law")}
    taxonomy = with_weights(tasks.load(DDK.curriculum), plan.weights)
    assert make_mix(plan, cells, DDK, taxonomy).weights == pytest.approx(plan.weights)


def test_fixed_weights_are_not_moved() -> None:
    config = parse({**SMALL, "curriculum": {"weights": {"Math": 0.5, "Art": 0.5}}})
    plan = make_plan(1, stats(Math=0.0, Art=9.0), config, tasks.load(config.curriculum), {"Math": 0.9, "Art": 0.1})
    assert plan.weights == {"Art": 0.5, "Math": 0.5}
    assert plan.weights_asked == plan.gaps == {} and plan.weights_in_words is None


@pytest.mark.parametrize("rules", [{"measure": "ifd", "top_fraction": 0.3}, {"select": "none"}])
def test_weights_by_the_judge_need_its_scores(rules: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"curriculum\.weights_by has no effect with"):
        parse({**SMALL, "curriculum": {"weights_by": "ddk", "difficulty": rules}})
