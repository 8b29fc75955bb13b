"""A user's measures: their declared inputs, the columns they keep, and plans of rows without a judge's scores."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tapir_ray.config import parse
from tapir_ray.curriculum import tasks
from tapir_ray.curriculum.difficulty import with_difficulty
from tapir_ray.curriculum.measures import Column, Measure, load_measure, measure
from tapir_ray.curriculum.plan import make_plan
from tapir_ray.curriculum.stats import table_stats
from tapir_ray.data.schemas import SCORED, conform
from tapir_ray.errors import InputError, StageError
from tests.curriculum.test_difficulty import longest_first

HERE = "tests.curriculum.test_measures"


@measure(answers=True)
def answer_length(rows: pa.Table) -> Column:
    """Returns the number of characters of the student's answer."""
    return pc.utf8_length(rows["student_response"])


@measure(samples=3, columns=[pa.field("different_answers", pa.int64())])
def disagreement(rows: pa.Table) -> pa.Table:
    """Returns the number of distinct texts among the student's sampled answers, less one."""
    different = [None if texts is None else len(set(texts)) for texts in rows["student_samples"].to_pylist()]
    found = pa.array(different, pa.int64())
    return (
        rows.append_column("different_answers", found)
        .append_column("margin", found)
        .set_column(rows.column_names.index("difficulty"), "difficulty", pc.subtract(found, 1))
    )


@measure(losses=True)
def ratio(rows: pa.Table) -> Column:
    """Returns the loss of the response given its conversation, divided by its loss alone."""
    return pc.divide(rows["response_loss"], rows["response_loss_alone"])


def test_a_measure_declares_its_inputs_and_a_plain_function_needs_the_judge() -> None:
    mfd, length = load_measure("mfd"), load_measure(f"{HERE}:answer_length")
    assert mfd.judge and mfd.positive and mfd.asks_student and mfd.schema == SCORED
    assert length.asks_student and not (length.judge or length.positive or length.samples)
    plain = load_measure("tests.curriculum.test_difficulty:longest_first")
    assert plain == Measure(longest_first, judge=True) and not plain.positive
    assert not Measure(longest_first).asks_student, "a measure of columns that the rows have already"


def test_a_measure_of_losses_asks_nobody_and_gets_two_columns() -> None:
    found = load_measure(f"{HERE}:ratio")
    assert found.losses and not (found.asks_student or found.judge or found.positive)
    assert found.schema.names == [*SCORED.names, "response_loss", "response_loss_alone"]
    rows = conform(
        [{"response_loss": 1.0, "response_loss_alone": 4.0}, {"response_loss": None, "response_loss_alone": None}],
        found.schema,
    )
    assert with_difficulty(rows, f"{HERE}:ratio")["difficulty"].to_pylist() == [0.25, None]
    assert not load_measure(f"{HERE}:disagreement").losses


@pytest.mark.parametrize("spec", ["mdf", "no_such_module:f", f"{HERE}:nothing", "math:pi"])
def test_an_unknown_measure_names_the_key(spec: str) -> None:
    with pytest.raises(InputError, match=r"curriculum\.difficulty\.measure"):
        load_measure(spec)


def test_a_measure_of_samples_keeps_its_columns() -> None:
    found = load_measure(f"{HERE}:disagreement")
    rows = conform([{"student_samples": ["a", "b", "a"]}, {"student_samples": None}], found.schema)
    measured = conform(with_difficulty(rows, f"{HERE}:disagreement"), found.schema)
    assert measured["difficulty"].to_pylist() == [1.0, None]
    assert measured["different_answers"].to_pylist() == [2, None]
    assert found.schema.names == [*SCORED.names, "student_samples", "different_answers"], "margin was not declared"


def answers(*lengths: int) -> pa.Table:
    """Returns rows of a run without a judge: answered, and without scores."""
    rows = [{"status": "ok", "task": "Math", "student_response": "x" * n, "student_response_chars": n} for n in lengths]
    return with_difficulty(conform(rows, SCORED), f"{HERE}:answer_length")


def plan_of(rows: pa.Table, **difficulty: object) -> object:
    chosen = {"measure": f"{HERE}:answer_length", "threshold": 50.0, **difficulty}
    config = parse(
        {
            "name": "x",
            "seed_data": {"path": "a.jsonl"},
            "student": {"model": "m"},
            "curriculum": {"tasks": "seed", "difficulty": chosen},
            "expand": {"size": 4},
        }
    )
    return make_plan(1, table_stats(rows, 4.0), config, tasks.load(config.curriculum).with_seed_counts({"Math": 4}))


def test_a_plan_of_unscored_rows_counts_none_as_unreliable_and_measures_no_noise() -> None:
    plan = plan_of(answers(10, 20, 60, 90))
    assert (plan.hard, plan.easy, plan.unreliable) == (2, 2, 0)
    assert plan.noise is plan.teacher_score is plan.student_score is plan.length_correlation is None
    assert plan.warnings == []
    with pytest.raises(StageError, match="see the values of the measure tests"):
        plan_of(conform([{"status": "ok", "task": "Math"}], SCORED))


def test_delta_moves_to_zero_only_for_a_measure_without_positive_values(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = answers(0, 0, 0, 0)
    assert plan_of(rows).threshold == 0.0
    monkeypatch.setattr(f"{HERE}.answer_length", Measure(answer_length.function, answers=True, positive=True))
    with pytest.raises(StageError, match="no hard row"):
        plan_of(rows)
