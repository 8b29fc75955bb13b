"""The forecast of ELAD: annotations by round, and the student's explanations and continuations."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.config import Config, parse
from tapir_ray.cost.elad import annotations_of, estimated_elad
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.sizes import Size, Sizes
from tapir_ray.cost.student_work import student_work
from tapir_ray.curriculum import tasks

ONE = {"teacher": Size(1, 100, 10)}


class Held(Seed):
    """Seed data with a given holdout."""

    def held_out(self, config: Config) -> dict[str, int]:
        return {"all": 20}


def config(elad: dict[str, Any], **sections: Any) -> Config:
    given: dict[str, Any] = {
        "name": "x",
        "method": "elad",
        "seed_data": {"path": "a.jsonl", "responses": "replace"},
        "student": {"model": "m", "sampling": {"max_tokens": 10}},
        "teacher": {"base_url": "http://localhost:1/v1", "model": "t", "price": {"input": 1.0, "output": 10.0}},
        "train": {"initial_sft": "on", "initial_share": 0.4},
        "curriculum": {"rounds": 3, "tasks": "seed"},
        "score": {"max_rows": 50, "candidates": "unseen"},
        "elad": elad,
    }
    return parse({**given, **sections})


def lines(settings: Config) -> dict[str, float]:
    """Returns the rows of each stage of 120 seed rows, of which 20 are held out."""
    kinds = ("fill", "annotate", "score_seed", "score_holdout")
    sizes = Sizes({kind: [(None, ONE)] for kind in kinds}, {kind: ONE for kind in kinds}, {None: 1.0})
    made = estimated_elad(settings, Held(usable=120), tasks.load(settings.curriculum), sizes)
    return {line.stage: round(line.rows, 6) for line in made.lines}


def test_the_teacher_answers_the_holdout_and_the_share_of_the_initial_sft() -> None:
    found = lines(config({"annotations": 25}))
    assert found["answer the seed data"] == 20 + 0.4 * 100
    # 60 questions are left: 25, 25 and 10.
    assert [found[f"round {number} annotate"] for number in (1, 2, 3)] == [25, 25, 10]
    assert found["round 1 score"] == found["evaluate"] == 20
    assert lines(config({"annotations": 25, "max_annotations": 40})) | {"evaluate": 20} == {
        "answer the seed data": 60, "round 1 score": 20, "round 1 annotate": 25, "round 2 score": 20,
        "round 2 annotate": 15, "evaluate": 20,
    }  # fmt: skip


def test_a_selection_by_difficulty_has_the_whole_pool_answered_and_its_candidates_scored() -> None:
    found = lines(config({"annotations": 25, "select": "mfd"}))
    assert found["answer the seed data"] == 120
    assert found["round 1 score"] == 50 + 20, "score.max_rows candidates and the holdout"


@pytest.mark.parametrize(
    ("elad", "spent", "questions", "expected"),
    [({"annotations": 25}, 0, 60, 25), ({"annotations": 25}, 50, 10, 10), ({"annotations": 25}, 0, 999, 25),
     ({"annotations": 80}, 0, 999, 50), ({"annotations": 25, "max_annotations": 60}, 50, 999, 10),
     ({"annotations": 25, "max_annotations": 60}, 60, 999, 0)],
)  # fmt: skip
def test_a_round_annotates_what_is_left(elad: dict[str, Any], spent: int, questions: int, expected: int) -> None:
    assert annotations_of(config(elad), spent, questions) == expected


@pytest.mark.parametrize(
    ("elad", "answers", "samples"),
    [
        # 3 rounds of 50 candidates, 4 times the holdout; 4 samples of each candidate and of each of 3 prefixes.
        ({"annotations": 25, "samples": 4, "max_prefixes": 3}, 150 + 80, 150 * 4 * 4),
        ({"annotations": 25, "select": "random"}, 75 + 80, 0),
        ({"annotations": 25, "select": "mfd"}, 150 + 75 + 80, 0),
    ],
)
def test_the_student_explains_and_continues(elad: dict[str, Any], answers: int, samples: int) -> None:
    assert student_work(config(elad), Held(usable=120)) == {
        "answers": answers, "samples": samples, "tokens_at_most": (answers + samples) * 10, "losses": 0
    }  # fmt: skip
