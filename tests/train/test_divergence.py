"""Divergence of a training, judged by its losses: noise is none, a lasting rise is one."""

from __future__ import annotations

import math

import numpy as np

from tapir_ray.train.divergence import WINDOW, Health, what_is_left


def first_alarm(losses: list[float], most_rise: float | None = 3.0) -> tuple[int, str] | None:
    health = Health(most_rise)
    for step in range(len(losses)):
        if wrong := health.look(losses[: step + 1]):
            return step, wrong
    return None


def test_noise_and_single_hard_batches_are_no_divergence() -> None:
    rng = np.random.default_rng(0)
    falling = [8 * math.exp(-step / 50) + 1 + float(rng.normal(0, 0.3)) for step in range(300)]
    falling[200] = 12.0
    assert first_alarm(falling) is None


def test_a_lasting_rise_is_reported_with_the_last_good_weights() -> None:
    losses = [2.0 - step / 100 for step in range(100)] + [7.0] * 40
    health = Health(3.0)
    alarms = [health.look(losses[: step + 1]) for step in range(len(losses))]
    first = next(step for step, wrong in enumerate(alarms) if wrong)
    assert 100 < first < 100 + WINDOW
    assert "rose from 1.0" in str(alarms[first])
    assert health.good == 99, "the weights before the step of the last low loss"
    assert first_alarm(losses, None) is None


def test_the_weights_before_those_of_the_bad_step_are_good() -> None:
    health = Health(None)
    assert [health.look([3.0, 2.5][:n]) for n in (1, 2)] == [None, None]
    assert health.look([3.0, 2.5, math.nan]) == "the loss is nan"
    assert health.good == 1
    assert health.look([3.0, 2.5, 2.4], finite_gradients=False) == "the gradients are not finite"
    assert health.good == 1


def test_only_an_existing_checkpoint_is_named_with_the_one_that_a_run_continues_from() -> None:
    four, six = {4: "kept/four"}, {6: "kept/six"}
    assert what_is_left(four, good=5) == (
        "the last good checkpoint is kept/four (step 4); without a change the run continues from the latest, of step 4"
    )
    doubtful = "without a change the run continues from the latest, of step 6, which is not known to be good"
    assert what_is_left(four | six, good=5) == f"the last good checkpoint is kept/four (step 4); {doubtful}"
    assert what_is_left(six, good=5) == f"no good checkpoint is left; {doubtful}"
    assert what_is_left({}, good=5).startswith("there is no checkpoint")


def test_a_rise_in_the_first_steps_is_compared_with_the_first_loss() -> None:
    """The learning rate is highest there, and a short training has no other steps."""
    step, message = first_alarm([2.5, 2.4, 2.4, 8.0] + [11.0] * 200) or (0, "")
    assert step < WINDOW and "rose from 2." in message
    assert first_alarm([2.5, 2.4, 8.0, *[11.0] * 6]) is not None
    assert first_alarm([9.0, 8.5, 12.0, 8.0, 7.5, 7.0]) is None, "one hard batch"
    assert first_alarm([2.5, 2.4, 2.4, 8.0] + [11.0] * 200, None) is None


def test_an_easy_first_batch_does_not_set_the_level_of_a_training() -> None:
    falling = [0.9] + [2.1 - step / 100 for step in range(60)]
    assert first_alarm(falling, 1.0) is None
    assert first_alarm([0.9, *[2.1] * 60], 1.0) is None
