"""Learning benchmark: what a measure gets from the student and the judge, and what the teacher is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks.learning_arms import ARMS, REGIMES
from benchmarks.learning_ledger import Ledger
from benchmarks.learning_loop import row_of
from benchmarks.learning_measures import with_measured
from benchmarks.learning_rounds import Rounds
from benchmarks.learning_trial import config_of, taxonomy_of
from tapir_ray.data.schemas import INSTRUCTIONS, SCORED, SEED, conform
from tapir_ray.simulator.families import understand
from tapir_ray.simulator.options import Options
from tapir_ray.simulator.tasks import Tasks
from tapir_ray.transforms.expand import ExpandRow

MATH = "tom has 7 pens , finds 3 , loses 2 . how many pens now ?"
"""Level 2; the answer is 8."""


class Planned:
    """A student that answers as planned."""

    def __init__(self, answer: str, samples: list[str]) -> None:
        self.planned, self.sampled = answer, samples

    def answer(self, instructions: Sequence[str]) -> list[str]:
        return [self.planned] * len(instructions)

    def samples(self, instructions: Sequence[str], count: int, temperature: float, seed: int) -> list[list[str]]:
        assert (count, temperature) == (len(self.sampled), 1.0)
        return [self.sampled] * len(instructions)


def measured(arm: str, student: Any) -> tuple[dict[str, Any], Ledger]:
    config, ledger = config_of(REGIMES["c"], ARMS[arm].changes, 0), Ledger()
    rows = conform([{**row_of(MATH, "8"), "split": SEED, "times_trained": 0}], SCORED)
    row = with_measured(rows, config, student, Options(), ledger, seed=1).to_pylist()[0]
    return row, ledger


@pytest.mark.parametrize(
    ("arm", "difficulty"),
    [("M_unknown", 0.75), ("M_frontier", 0.19), ("M_self_consistency", 0.5)],
)
def test_samples_become_difficulties(arm: str, difficulty: float) -> None:
    """2 of 8 samples are right, p = 0.25 and p (1 − p) = 0.1875; the most frequent answer, 7, is given 4 times."""
    row, ledger = measured(arm, Planned("7", ["8", "the answer is 8", "7", "7", "7", "7", "5", "4"]))
    assert row["difficulty"] == pytest.approx(difficulty) and row["teacher_score"] is None
    usage = ledger.usage(lambda texts: sum(map(len, texts)))
    assert usage["student_samples"]["calls"] == 8 and ledger.calls("judge") == 0


def test_the_judge_scores_in_both_orders_and_its_reply_is_kept_for_feedback() -> None:
    for arm, kept in (("A3", None), ("M_feedback", "Answer 1 is right and Answer 2 is wrong.\nScores: 10 1")):
        row, ledger = measured(arm, Planned("7", []))
        assert (row["teacher_score"], row["student_score"], row["difficulty"]) == (10.0, 1.0, 9.0)
        assert row["judge_reasons"] == kept and row["student_response"] == "7"
        assert (ledger.calls("judge"), ledger.calls("teacher")) == (2, 0)


def rounds_of(arm: str) -> Rounds:
    config = config_of(REGIMES["c"], ARMS[arm].changes, 0)
    table = conform([{**row_of(MATH, "8"), "split": SEED}], INSTRUCTIONS)
    student: Any = None
    return Rounds(config, taxonomy_of(config, table), student, table, teacher=Tasks(Options()))


def draw(number: int, student: str | None = "7") -> dict[str, Any]:
    given = {"parent_response": "8", "student_response": student, "judge_reasons": "Answer 2 is wrong."}
    return {"draw_id": f"draw {number}", **row_of(MATH, "8"), **given}


def test_expansions_differ_from_their_row_as_the_teacher_was_asked() -> None:
    steps = {
        "M_feedback": {"easier": {1}, "harder": {3}},
        "M_evolve": {"constraint": {3}, "deepen": {3}, "reasoning": {3}, "concretise": {2}, "breadth": {2}},
        "A3": {None: {2, 3}},
    }
    for arm, expected in steps.items():
        rounds, found = rounds_of(arm), {}
        for number in range(60):
            text, operation = rounds._expand(draw(number), ExpandRow.of(rounds.config))
            known = understand(text)
            assert known is not None and known[0].label == "Math"
            found.setdefault(operation, set()).add(known[1].level)
        assert found == expected
        assert rounds.ledger.calls("teacher") == 60


def test_the_tokens_of_an_expansion_are_those_of_its_prompt() -> None:
    """Bytes count as four a token; texts are counted by length here, so a prompt of n bytes and t of texts has
    t + (n − t) / 4."""
    rounds = rounds_of("M_feedback")
    by = ExpandRow.of(rounds.config)
    prompt, _ = by.prompt_of(draw(0), MATH)
    text, _ = rounds._expand(draw(0), by)
    texts = len(MATH) + len("8") + len("7")
    usage = rounds.ledger.usage(lambda found: sum(map(len, found)))["expand"]
    assert usage["input"] == texts + round((len(prompt.encode()) - texts) / 4)
    assert usage["output"] >= len(text)


def test_a_row_that_the_student_has_not_answered_is_expanded_like_it() -> None:
    rounds = rounds_of("M_feedback")
    _, operation = rounds._expand(draw(0, student=None), ExpandRow.of(rounds.config))
    assert operation is None
