"""From scores to a plan and a mix: the quotas, the moves of δ or α if a pool is too small, and the warnings."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.config import Config, parse
from tapir_ray.curriculum.mix import Mix, make_mix
from tapir_ray.curriculum.plan import Plan, make_plan
from tapir_ray.curriculum.stats import Moments, ScoreStats, TaskStats
from tapir_ray.curriculum.tasks import Taxonomy, load
from tapir_ray.errors import StageError


def config(**sections: Any) -> Config:
    base = {"name": "t", "student": {"model": "m"}, "seed_data": {"path": "x"}, "expand": {"size": 100}}
    return parse({**base, **sections})


def stats(**by_task: dict[float, int]) -> ScoreStats:
    tasks = {
        task.replace("_", " "): TaskStats(histogram=values, judged=1, teacher_milli=9000, student_milli=5000)
        for task, values in by_task.items()
    }
    return ScoreStats(rows=sum(sum(values.values()) for values in by_task.values()), by_task=tasks)


def planned(scores: ScoreStats, settings_: Config | None = None, round_number: int = 1) -> Plan:
    settings_ = settings_ or config()
    return make_plan(round_number, scores, settings_, load(settings_.curriculum))


def test_large_pools_move_neither_alpha_nor_the_threshold() -> None:
    plan = planned(stats(Math={0.0: 30, 4.0: 30}, Art={-1.0: 30, 2.0: 10}))
    assert (plan.alpha_asked, plan.alpha, plan.threshold_asked, plan.threshold) == (0.3, 0.3, 2.0, 2.0)
    assert (plan.hard, plan.easy) == (40, 60)
    assert plan.by_task["Art"].model_dump() == {"hard": 10, "easy": 30, "unreliable": 0}
    assert sum(plan.expand.values()) == 100
    assert plan.expand == {"Math": 91, "Art": 9}, "weights of 0.167 : 0.017"
    assert "Toxicity" not in plan.absent_tasks
    assert "History" in plan.absent_tasks
    assert any("shared out" in warning for warning in plan.warnings)
    assert Plan.model_validate_json(plan.to_json()) == plan
    assert planned(stats(Math={0.0: 30, 4.0: 30}), round_number=2).alpha == 0.5


def test_draws_are_given_only_to_tasks_with_hard_rows() -> None:
    assert planned(stats(Math={0.0: 50}, Art={3.0: 50})).expand == {"Art": 100}


def test_all_hard_moves_the_threshold_up() -> None:
    plan = planned(stats(Math={float(n): 10 for n in range(2, 10)}))
    assert plan.threshold_asked == 2.0
    assert plan.threshold == 5.0, "the nearest value that leaves (1 − α)·n / max_repeat = 28 easy rows"
    assert (plan.hard, plan.easy) == (50, 30)
    assert "moved to 5" in plan.warnings[0]


def test_none_hard_moves_the_threshold_down_but_never_to_zero() -> None:
    plan = planned(stats(Math={0.0: 50, 0.5: 30, 1.0: 20}))
    assert (plan.threshold, plan.hard) == (1.0, 20)
    with pytest.raises(StageError, match=r"no hard row.*curriculum\.difficulty\.threshold"):
        planned(stats(Math={-1.0: 50, 0.0: 30}))


@pytest.mark.parametrize("value", [0.5, 2.0, 7.5])
def test_rows_tied_above_zero_are_all_hard(value: float) -> None:
    plan = planned(stats(Math={value: 80}))
    assert (plan.hard, plan.easy) == (80, 0)
    mix = make_mix(plan, {("hard", "Math"): (180, 9000)}, config(), load(config().curriculum))
    assert (mix.alpha_asked, mix.alpha, mix.share) == (0.3, 1.0, 1.0)
    assert "α moved" in mix.warnings[0]


def test_rows_tied_at_zero_stop_the_run() -> None:
    with pytest.raises(StageError, match="no hard row"):
        planned(stats(Math={0.0: 80}))


def test_a_top_fraction_sets_the_threshold() -> None:
    settings_ = config(curriculum={"difficulty": {"top_fraction": 0.3}})
    plan = planned(stats(Math={float(n): 10 for n in range(10)}), settings_)
    assert (plan.threshold_asked, plan.threshold, plan.hard) == (7.0, 7.0, 30)
    tied = planned(stats(Math={1.0: 60, 3.0: 40}), settings_)
    assert (tied.threshold, tied.hard) == (3.0, 40)


def test_alpha_moves_if_on_small_pool_says_so() -> None:
    settings_ = config(curriculum={"difficulty": {"on_small_pool": "move_alpha"}})
    plan = planned(stats(Math={1.0: 10, 5.0: 90}), settings_)
    assert (plan.threshold, plan.hard) == (2.0, 90)
    assert plan.alpha == pytest.approx(0.8), "10 easy rows, each twice, are 20 of 100"
    with pytest.raises(StageError, match="no hard row"):
        planned(stats(Math={1.0: 100}), settings_)


def test_a_small_pool_stops_the_run_if_on_small_pool_says_so() -> None:
    with pytest.raises(StageError, match=r"0 hard.*lower curriculum\.difficulty\.threshold"):
        planned(stats(Math={1.0: 100}), config(curriculum={"difficulty": {"on_small_pool": "stop"}}))


def test_a_plan_without_a_reliable_row_names_the_key_to_check() -> None:
    with pytest.raises(StageError, match=r"judge\.min_teacher_score"):
        planned(ScoreStats(rows=5, failed=2, by_task={"Math": TaskStats(unreliable=3)}))


def test_hard_rows_of_a_task_without_weight_are_not_expanded() -> None:
    with pytest.raises(StageError, match="no hard row"):
        planned(stats(Toxicity={5.0: 60, 0.0: 60}, Math={0.0: 60}))


def test_unmeasured_noise_is_a_warning() -> None:
    still = stats(Math={0.0: 60, 4.0: 60}).model_copy(update={"repeats": Moments(n=6), "repeats_same": 6})
    (warning,) = [one for one in planned(still).warnings if "σ" in one]
    assert "not measured" in warning and "all 6 rows" in warning and planned(still).noise is None
    cold = config(judge={"repeat_temperature": 0.0})
    assert "judge.repeat_temperature" in " ".join(planned(stats(Math={0.0: 60, 4.0: 60}), cold).warnings)
    off = config(judge={"repeat_temperature": 0.0, "repeat_share": 0.0})
    assert "σ" not in " ".join(planned(stats(Math={0.0: 60, 4.0: 60}), off).warnings)


def test_noise_and_length_bias_of_the_judge_are_warnings() -> None:
    noisy = stats(Math={0.0: 60, 4.0: 60}).model_copy(
        update={
            "repeats": Moments(n=2, xx=2 * 4000**2),
            "teacher_length": Moments(n=3, x=6, y=6, xx=14, yy=14, xy=14),
        }
    )
    warnings = " ".join(planned(noisy).warnings)
    assert "2σ" in warnings
    assert "length" in warnings
    own = planned(
        noisy, config(curriculum={"difficulty": {"measure": "tests.curriculum.test_difficulty:longest_first"}})
    )
    assert own.noise == planned(noisy).noise and "σ" not in " ".join(own.warnings), "δ is not in units of the MFD"
    assert "length" in " ".join(own.warnings)
    calm = config(judge={"model": "other"})
    assert planned(stats(Math={0.0: 60, 4.0: 60}), calm).warnings[0].startswith("no rows of")


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["Math", "Art", "Law"]),
        st.dictionaries(st.integers(-18, 18).map(lambda n: n / 2), st.integers(1, 50), min_size=1, max_size=8),
        min_size=1,
    ),
    st.integers(1, 4),
    st.sampled_from(["move_threshold", "move_alpha", "stop"]),
)
def test_a_plan_adds_up_or_names_the_key_to_change(tasks: dict, round_number: int, policy: str) -> None:
    settings_ = config(curriculum={"difficulty": {"on_small_pool": policy}})
    scores = stats(**tasks)
    try:
        plan = planned(scores, settings_, round_number)
    except StageError as error:
        assert "curriculum.difficulty" in str(error)
        return
    assert plan.hard + plan.easy == scores.reliable
    assert plan.hard == sum(counts.hard for counts in plan.by_task.values()) >= 1
    assert sum(plan.expand.values()) == 100
    assert all(plan.by_task[task].hard for task, draws in plan.expand.items() if draws)
    assert 0.0 <= plan.alpha <= 1.0


def mixed(plan: Plan, capacities: dict, **sections: Any) -> Mix:
    settings_ = config(**sections)
    return make_mix(plan, capacities, settings_, load(settings_.curriculum))


PLAN = planned(stats(Math={0.0: 60, 4.0: 60}))
CELLS = {("hard", "Math"): (100, 5000), ("easy", "Math"): (300, 3000), ("unreliable", "Math"): (9, 90)}


def test_a_mix_takes_all_rows_that_alpha_allows() -> None:
    mix = mixed(PLAN, CELLS)
    assert mix.unit == "tokens"
    assert mix.capacity == {"hard": {"Math": 10_000}, "easy": {"Math": 6000}}
    assert mix.table[("easy", "Math")] == 6000
    assert mix.share == pytest.approx(0.3, abs=1e-4)
    assert Mix.model_validate_json(mix.to_json()) == mix
    pairs = mixed(PLAN, CELLS, mix={"unit": "pairs", "size": 100})
    assert pairs.quota == {"hard": {"Math": 30}, "easy": {"Math": 70}}


def test_a_mix_that_is_too_small_moves_size_or_alpha_or_stops() -> None:
    size = {"mix": {"unit": "pairs", "size": 780}}
    kept = mixed(PLAN, CELLS, **size)
    assert (kept.alpha, kept.size) == (0.3, 668)
    assert "instead of 780" in kept.warnings[0]
    moved = mixed(PLAN, CELLS, **size, curriculum={"difficulty": {"on_small_pool": "move_alpha"}})
    assert (moved.size, moved.quota["easy"]["Math"]) == (780, 580)
    with pytest.raises(StageError, match=r"mix\.size"):
        mixed(PLAN, CELLS, **size, curriculum={"difficulty": {"on_small_pool": "stop"}})
    with pytest.raises(StageError, match="task with a mixture weight"):
        mixed(PLAN, {})


def test_the_weights_of_the_seed_data_reach_the_plan() -> None:
    settings_ = config(curriculum={"tasks": "seed"})
    taxonomy: Taxonomy = load(settings_.curriculum).with_seed_counts({"Cooking": 3, "Math": 1})
    plan = make_plan(1, stats(Math={0.0: 60, 4.0: 60}, Cooking={4.0: 9, 0.0: 9}), settings_, taxonomy)
    assert plan.weights == {"Cooking": 0.75, "Math": 0.25}
    assert plan.expand == {"Cooking": 75, "Math": 25}


def test_the_plan_does_not_depend_on_the_order_of_scores() -> None:
    tasks = {"Math": {0.0: 60, 4.0: 60}, "Art": {1.0: 5, 3.0: 9}}
    shuffled = dict(random.Random(1).sample(sorted(tasks.items()), 2))
    assert planned(stats(**tasks)) == planned(stats(**shuffled))


def test_the_mean_difficulty_is_that_of_the_reliable_rows_of_all_tasks() -> None:
    unreliable = {"Law": TaskStats(unreliable=50)}
    scores = ScoreStats(by_task={**stats(Math={4.0: 3}, Code_Debug={-2.0: 1, 0.0: 2}).by_task, **unreliable})
    assert scores.mean_difficulty == pytest.approx(10 / 6)
    assert ScoreStats(by_task=unreliable).mean_difficulty is None
