"""Sources of the draws: shares of hard, easy and random rows, empty pools, and what expansions add to the pools."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from tapir_ray.config import Config
from tapir_ray.curriculum.selection import moved_alpha, needs
from tapir_ray.curriculum.sources import added, by_task, draws_by_source
from tapir_ray.errors import StageError
from tests.curriculum.test_plan import config, planned, stats

WEIGHTS = {"Art": 0.25, "Math": 0.75}
ALL = {"hard": WEIGHTS, "easy": WEIGHTS, "random": WEIGHTS}


def drawing(shares: dict[str, float], size: int = 100, probe_share: float = 0.0, **sections: Any) -> Config:
    return config(expand={"size": size, "sources": shares, "probe_share": probe_share}, **sections)


def test_draws_are_split_by_source_and_then_by_task() -> None:
    shares = {"hard": 0.4, "easy": 0.4, "random": 0.2}
    draws, warnings = draws_by_source(100, shares, {source: ["Math", "Art"] for source in ALL}, ALL)
    assert draws == {
        "hard": {"Art": 10, "Math": 30}, "easy": {"Art": 10, "Math": 30}, "random": {"Art": 5, "Math": 15},
    }  # fmt: skip
    assert by_task(draws) == {"Art": 25, "Math": 75} and warnings == []
    only, _ = draws_by_source(100, shares, {"hard": ["Art"], "easy": ["Math"], "random": ["Math"]}, ALL)
    assert only == {"hard": {"Art": 40}, "easy": {"Math": 40}, "random": {"Math": 20}}


def test_the_share_of_an_empty_pool_goes_to_the_other_sources() -> None:
    shares, rooms = {"hard": 0.5, "easy": 0.25, "random": 0.25}, {"hard": ["Math"], "easy": [], "random": ["Math"]}
    draws, warnings = draws_by_source(100, shares, rooms, ALL)
    assert draws == {"hard": {"Math": 67}, "random": {"Math": 33}}, "0.5 : 0.25 of 100"
    assert warnings == [
        "expand.sources.easy: there is no easy row to draw from, so its share of 0.25 goes to hard and random"
    ]
    assert draws_by_source(100, {"hard": 0.0, "easy": 1.0, "random": 0.0}, rooms, ALL) == ({}, [])


def test_expansions_add_rows_to_the_pool_they_are_drawn_from() -> None:
    """80 of 100 draws are no probes: 40 from hard rows, 20 from easy ones, 20 from 60 reliable and 40 unscored rows."""
    mixed = drawing({"hard": 0.5, "easy": 0.25, "random": 0.25}, probe_share=0.2)
    found = added(1, 60, 40, mixed)
    assert (found.hard, found.easy, found.spread, found.unscored) == (40, 20, Fraction(1, 5), 40)
    last = added(3, 60, 40, mixed)
    assert (last.hard, last.easy, last.spread) == (50, 25, Fraction(1, 4)), "the last round has no probes"

    need = needs(60, 0.3, mixed, found)
    assert need.hard == 3, "40 fresh rows are more than 18: only min_hard_share · 60 counts"
    assert need.easy == 7, "(42 − 20 − 0.2 · 40) / (2 + 0.2)"
    assert need.lack(2, 5) == 3
    default = drawing({"hard": 1.0})
    assert needs(60, 0.3, default, added(1, 60, 40, default)).easy == 21, "42 / 2: no fresh easy row"


def test_a_round_without_hard_sources_needs_no_hard_row_to_expand() -> None:
    easy = drawing({"easy": 1.0}, size=20)
    found = added(1, 100, 0, easy)
    assert needs(100, 0.0, easy, found).hard == 0
    assert needs(100, 0.9, easy, found).hard == 45, "90 / 2: expansions add no hard row"
    assert moved_alpha(90, 100, 0.3, easy, found) == 0.6, "1 − (10 · 2 + 20) / 100"
    plan = planned(stats(Math={0.0: 60, 4.0: 60}), easy)
    assert plan.sources == {"easy": {"Math": 20}} and plan.expand == {"Math": 20}
    assert plan.draws == {("easy", "Math"): 20} and plan.random_draws == {}


def test_random_draws_come_from_tasks_without_a_score_too() -> None:
    scores = stats(Math={0.0: 60, 4.0: 60}).model_copy(update={"unscored_by_task": {"Art": 50}, "unscored": 50})
    plan = planned(scores, drawing({"random": 1.0}))
    assert plan.sources == {"random": {"Art": 9, "Math": 91}}
    assert plan.weights == {"Math": 1.0}, "no row of Art is in a pool"
    assert plan.random_draws == {("random", "Art"): 9, ("random", "Math"): 91} and plan.draws == {}
    default = planned(scores)
    assert default.sources == {"hard": {"Math": 100}} and default.expand == {"Math": 100}


def test_a_plan_without_hard_rows_draws_from_the_other_sources_or_stops() -> None:
    none_hard = stats(Math={-1.0: 50, 0.0: 30})
    plan = planned(none_hard, drawing({"hard": 0.5, "random": 0.5}))
    assert (plan.hard, plan.sources) == (0, {"random": {"Math": 100}})
    assert any("no hard row to draw from" in warning for warning in plan.warnings)
    with pytest.raises(StageError, match="no hard row among 80"):
        planned(none_hard, drawing({"hard": 1.0}))


def test_shares_of_thirds_are_a_whole() -> None:
    thirds = drawing({"hard": 0.3333, "easy": 0.3333, "random": 0.3334}, size=9)
    plan = planned(stats(Math={0.0: 60, 4.0: 60}), thirds)
    assert {source: sum(tasks.values()) for source, tasks in plan.sources.items()} == {
        "hard": 3, "easy": 3, "random": 3,
    }  # fmt: skip
