"""EGSS by hand: u_j = 1 − share of the most frequent final answer; the sum of mean u_j and the disagreement."""

from __future__ import annotations

import pytest

from tapir_ray.curriculum.step_uncertainty import Uncertainty, chosen, chosen_by_task, disagreement, uncertainty


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], 0.0),
        (["7", "7", "7", "7"], 0.0),
        (["7", "7", "7", "9"], 0.25),
        (["7", "9", "8", "9"], 0.5),
        (["7", "8", "9", "10"], 0.75),
        ([None, None, "7", "7"], 0.5),
        ([None, None, None], 1.0),
    ],
)
def test_disagreement_is_the_share_of_the_answers_that_are_not_the_most_frequent_one(
    answers: list[str | None], expected: float
) -> None:
    assert disagreement(answers) == pytest.approx(expected)


def test_the_uncertainty_is_the_mean_over_the_prefixes_plus_the_disagreement_of_whole_explanations() -> None:
    found = uncertainty(["7", "7", "7", "9"], [["7"] * 4, ["7", "9", "8", "9"], ["7", "7", "8", "8"]])
    assert found.by_step == (0.0, 0.5, 0.5) and found.disagreement == 0.25
    assert found.total == pytest.approx((0.0 + 0.5 + 0.5) / 3 + 0.25)


def test_a_right_answer_with_unstable_steps_is_more_uncertain_than_a_stable_wrong_one() -> None:
    unstable = uncertainty(["7"] * 4, [["7", "7", "8", "9"]])
    stable = uncertainty(["8"] * 4, [["8"] * 4])
    assert unstable.total == 0.5 > stable.total == 0.0
    assert Uncertainty((), 0.25).total == 0.25, "an explanation of one step has no prefix"


def test_the_highest_values_are_chosen_and_ties_do_not_depend_on_the_order() -> None:
    values = {"a": 0.5, "b": 1.25, "c": 0.5, "d": 0.5, "e": 0.0}
    first = chosen(values, 3, 0, 1, "elad")
    assert "b" in first and "e" not in first and len(first) == 3
    assert first == chosen(dict(reversed(values.items())), 3, 0, 1, "elad")
    others = {frozenset(chosen(values, 3, seed, 1, "elad")) for seed in range(20)}
    assert len(others) == 3, "each pair of the three equal ones"
    assert chosen(values, 9, 0) == set(values)


def test_the_highest_values_of_each_task_are_chosen_by_the_weights() -> None:
    values = {"a1": 1.5, "a2": 1.4, "a3": 1.3, "a4": 1.2, "b1": 0.2, "b2": 0.1, "c1": 9.0}
    tasks = {name: name[0] for name in values}
    found = chosen_by_task(values, tasks, 4, {"a": 0.5, "b": 0.5}, 0, 1, "elad")
    assert found == {"a1", "a2", "b1", "b2"}, "c has no weight"
    # b has 2 rows of the 3 that are its share: the rest goes to a.
    assert chosen_by_task(values, tasks, 6, {"a": 0.5, "b": 0.5}, 0, 1, "elad") == set(values) - {"c1"}
    assert chosen_by_task({}, {}, 4, {"a": 1.0}, 0) == set()
