"""Preference pairs: kept only if the judge prefers the same answer in both orders."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import datasets
import pytest

from tapir_ray.data.schemas import instruction_id
from tapir_ray.errors import InputError
from tapir_ray.methods import layout_of
from tapir_ray.report.export.dataset import export_dataset
from tapir_ray.report.export.preference import CUT_OFF, DISAGREE, NO_SCORES, NO_STUDENT, ONE_ORDER, TIE, undecided
from tests.report.export.runs import finished_run, messages_of, scored, write


def test_pairs_are_read_by_the_datasets_library(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    out = tmp_path / "out"
    made = export_dataset(run.uri, layout_of, str(out), "preference")
    assert made.counts.reasons == {DISAGREE: 2, "repeated: an exported row has it": 2, "holdout: never trained on": 2}
    found = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    by_id = {row["instruction_id"]: row for row in found}
    better, worse = (by_id[instruction_id(messages_of(name))] for name in ("PLAIN", "SYSTEM"))
    assert len(by_id) == 2
    assert better["prompt"] == messages_of("PLAIN")
    assert better["chosen"] == [{"role": "assistant", "content": "five"}]
    assert better["rejected"] == [{"role": "assistant", "content": "PLAIN?"}]
    assert (better["chosen_score"], better["rejected_score"], better["chosen_by"]) == (8.0, 3.0, "teacher")
    assert worse["chosen"] == [{"role": "assistant", "content": "SYSTEM?"}]
    assert (worse["chosen_score"], worse["chosen_by"], worse["table"]) == (8.0, "student", "rounds/01/scored")


def test_the_orders_agree_exactly_if_both_prefer_the_same_answer() -> None:
    marks = (1, 4, 5, 8)
    for first, second, third, fourth in itertools.product(marks, repeat=4):
        # As `transforms/judge.py` stores two orders: (teacher, student) each.
        differences = (first - second, third - fourth)
        row = scored("PLAIN", (first + third) / 2, (second + fourth) / 2, float(abs(differences[0] - differences[1])))
        agree = differences[0] * differences[1] > 0
        assert (undecided(row) is None) == agree, differences


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"student_response": None}, NO_STUDENT),
        ({"student_response": "  "}, NO_STUDENT),
        ({"teacher_score": None}, NO_SCORES),
        ({"position_gap": None}, ONE_ORDER),
        ({"student_score": 8.0, "position_gap": 0.0}, TIE),
        ({"student_response": "five"}, TIE),
        ({"student_score": 9.9, "position_gap": 1.0, "finish_reason": "length"}, CUT_OFF),
        ({"finish_reason": "length"}, None),
        ({"position_gap": None, "scored_by": "reference_number"}, None),
    ],
)
def test_undecided_rows_have_a_reason(changed: dict[str, Any], reason: str | None) -> None:
    assert undecided({**scored("PLAIN", 8.0, 3.0, 1.0), **changed}) == reason


def test_a_run_that_scores_no_candidates_says_so(tmp_path: Path) -> None:
    run, tables = finished_run(tmp_path)
    for one in tables.rounds:
        write(run, one.scored, [scored("PLAIN", 8.0, 3.0, 1.0, student_response=None)])
    with pytest.raises(InputError, match=r"no row .* exported as preference \(no student answer"):
        export_dataset(run.uri, layout_of, str(tmp_path / "out"), "preference")
