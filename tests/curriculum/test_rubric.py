"""Criteria of the judge: the shipped ones, a user's own, weighted means, and errors that name the change to make."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapir_ray.config import Curriculum
from tapir_ray.curriculum.rubric import Criterion, Rubric
from tapir_ray.curriculum.tasks import load
from tapir_ray.errors import InputError

DEFAULT = ("helpfulness", "relevance", "accuracy", "detail")


def test_a_score_is_the_weighted_mean_of_the_marks() -> None:
    rubric = Rubric((Criterion("accuracy", 2.0, "?"), Criterion("clarity", 1.0, "?")))
    assert rubric.score({"accuracy": 9.0, "clarity": 6.0}) == 8.0  # (2 · 9 + 6) / 3
    tenths = Rubric((Criterion("a", 0.1, "?"), Criterion("b", 0.2, "?"), Criterion("c", 0.7, "?")))
    assert tenths.score({"a": 7.0, "b": 7.0, "c": 7.0}) == 7.0, "equal answers would be no tie"


def test_a_task_has_its_own_criteria_and_others_have_the_default() -> None:
    rubrics = load(Curriculum()).rubrics
    assert rubrics.of("Math").names == ("result", "steps", "clarity")
    assert [one.weight for one in rubrics.of("Math").criteria] == [3.0, 2.0, 1.0]
    for task in ("Others", "Cooking", None):
        assert rubrics.of(task).names == DEFAULT
    assert rubrics.of(None).text().splitlines()[2] == "- accuracy: Is all that it states true?"


def test_a_file_has_criteria_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "criteria: {brevity: {question: 'Is it short?'}}\n"
        "tasks:\n"
        "  Chess: {weight: 0.5, criteria: {legal: {weight: 0.5, question: 'Is the move\n legal?'}}}\n"
        "  Math: {weight: 0.5}\n"
    )
    rubrics = load(Curriculum(tasks=str(path))).rubrics
    assert rubrics.of("Chess") == Rubric((Criterion("legal", 0.5, "Is the move legal?"),))
    assert rubrics.of("Math") == rubrics.of(None) == Rubric((Criterion("brevity", 1.0, "Is it short?"),))
    path.write_text("tasks: {Math: {weight: 1}}")
    assert load(Curriculum(tasks=str(path))).rubrics.of("Math").names == DEFAULT, "those of the shipped file"


@pytest.mark.parametrize(
    ("criteria", "says"),
    [
        ("{}", "task A: write `criteria` as names"),
        ("[accuracy]", "task A: write `criteria` as names"),
        ("{Is it true: {question: x}}", "the criterion 'Is it true' is a key of the judge's JSON"),
        ("{1: {question: x}}", "the criterion '1' is a key"),
        ("{accuracy: 2}", "criterion accuracy is not a mapping"),
        ("{accuracy: {weight: 0, question: x}}", "criterion accuracy needs a `weight` above 0 .it is 0."),
        ("{accuracy: {weight: true, question: x}}", "a `weight` above 0"),
        ("{accuracy: {weight: 1}}", "criterion accuracy needs a `question`"),
        ("{accuracy: {wieght: 1, question: x}}", "unknown key wieght"),
    ],
)
def test_bad_criteria_are_named(tmp_path: Path, criteria: str, says: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"tasks: {{A: {{weight: 1, criteria: {criteria}}}}}")
    with pytest.raises(InputError, match=says):
        load(Curriculum(tasks=str(path)))
    path.write_text(f"criteria: {criteria}\ntasks: {{A: {{weight: 1}}}}")
    with pytest.raises(InputError, match=says.removeprefix("task A: ")):
        load(Curriculum(tasks=str(path)))
