"""Filling up a training set with unscored rows, and the probes that are kept out of it."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.curriculum.mix import Mix
from tapir_ray.curriculum.quotas import Cell
from tapir_ray.errors import StageError
from tests.curriculum.test_plan import config, mixed, planned, stats

HALF = planned(stats(Math={0.0: 300, 4.0: 100}), config(curriculum={"alpha": 0.5}))
CELLS: dict[Cell, tuple[int, int]] = {
    ("hard", "Math"): (100, 1000), ("easy", "Math"): (300, 3000), ("unscored", "Math"): (200, 2000),
}  # fmt: skip


def filled(size: int, cells: dict[Cell, tuple[int, int]] = CELLS, **sections: Any) -> Mix:
    return mixed(HALF, cells, mix={"unit": "pairs", "size": size, "fill": "unscored"}, **sections)


@pytest.mark.parametrize(
    ("size", "hard", "easy", "unscored"),
    [(150, 75, 75, 0), (200, 100, 100, 0), (350, 100, 100, 150), (400, 100, 100, 200), (500, 150, 150, 200)],
)
def test_unscored_rows_come_before_any_repeat(size: int, hard: int, easy: int, unscored: int) -> None:
    mix = filled(size)
    assert mix.quota == {"hard": {"Math": hard}, "easy": {"Math": easy}, "unscored": {"Math": unscored}}
    assert (mix.size, mix.unscored, mix.share, mix.warnings[:-1]) == (size, unscored, 0.5, [])
    assert mix.capacity == {"hard": {"Math": 200}, "easy": {"Math": 600}, "unscored": {"Math": 200}}
    assert mix.table[("unscored", "Math")] == unscored


def test_without_filling_the_same_size_is_reached_by_repeats() -> None:
    mix = mixed(HALF, CELLS, mix={"unit": "pairs", "size": 350})
    assert mix.quota == {"hard": {"Math": 175}, "easy": {"Math": 175}}
    assert (mix.unscored, sorted(mix.capacity)) == (0, ["easy", "hard"])


def test_unscored_rows_follow_the_task_weights() -> None:
    """150 units at 0.167 : 0.017 are 136 and 14; Art has 10, so Math gives the rest."""
    mix = filled(350, {**CELLS, ("unscored", "Math"): (200, 2000), ("unscored", "Art"): (10, 100)})
    assert mix.quota["unscored"] == {"Art": 10, "Math": 140}
    more = filled(350, {**CELLS, ("unscored", "Math"): (200, 2000), ("unscored", "Art"): (90, 900)})
    assert more.quota["unscored"] == {"Art": 14, "Math": 136}
    assert filled(350, {**CELLS, ("unscored", "Toxicity"): (90, 900)}).quota["unscored"] == {"Math": 150}


def test_no_scored_row_is_repeated_for_a_task_weight_while_others_fill_the_set() -> None:
    """The weights would take Math's 10 hard rows twice; Art's 90 fresh ones come first."""
    cells: dict[Cell, tuple[int, int]] = {
        ("hard", "Math"): (10, 1), ("hard", "Art"): (90, 1), ("easy", "Math"): (300, 1), ("unscored", "Math"): (500, 1),
    }  # fmt: skip
    assert filled(600, cells).quota["hard"] == {"Art": 90, "Math": 10}


def test_a_set_that_stays_too_small_moves_size_or_alpha_or_stops() -> None:
    """All that fits at α 0.5: 200 hard and 200 easy pairs with repeats, and 200 unscored ones."""
    kept = filled(700)
    assert (kept.size, kept.alpha, kept.unscored) == (600, 0.5, 200)
    assert "200 hard and 600 easy pairs (repeats included) and 200 unscored: the mix is 600 instead" in kept.warnings[0]
    moved = filled(700, curriculum={"difficulty": {"on_small_pool": "move_alpha"}})
    assert (moved.size, moved.alpha, moved.quota["easy"]) == (700, 0.4, {"Math": 300})
    with pytest.raises(StageError, match=r"too few for mix\.size"):
        filled(700, curriculum={"difficulty": {"on_small_pool": "stop"}})


def test_an_empty_pool_moves_alpha_before_unscored_rows_fill_the_set() -> None:
    mix = filled(450, {cell: found for cell, found in CELLS.items() if cell[0] != "hard"})
    assert (mix.alpha, mix.size) == (0.0, 450)
    assert mix.quota == {"hard": {}, "easy": {"Math": 300}, "unscored": {"Math": 150}}


def test_probes_are_counted_and_not_drawn() -> None:
    mix = mixed(HALF, {**CELLS, ("probe", "Math"): (7, 70), ("probe", "Art"): (2, 20)})
    assert mix.probes == {"Art": 2, "Math": 7}
    assert set(mix.quota) == {"hard", "easy"} and "Art" not in mix.weights
    assert Mix.model_validate_json(mix.to_json()) == mix
