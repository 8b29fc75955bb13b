"""Evaluation sets: none of their instructions is trained on, and an unreadable file is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tapir_ray.errors import InputError
from tapir_ray.steps import decontaminate, holdout, seed
from tests.steps.contexts import context_for, rows_of, write

SECOND_TURN = "Take your previous response and rephrase it as a limerick."


def test_questions_of_mt_bench_are_not_trained_on(
    tmp_path: Path, ray_local: None, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = str(tmp_path / "mt_bench.jsonl")
    shutil.copy(data_folder / "eval/mt_bench_questions.jsonl", questions)
    with open(questions, "a") as file:
        file.write('{"broken\n{"turns": []}\n')
    rows = [{"instruction": f"Name {n} colours.", "output": "red"} for n in range(8)]
    path = write(tmp_path / "seed.jsonl", [*rows, {"instruction": SECOND_TURN, "output": "There once was"}])
    context = context_for(tmp_path, path, filter={"evaluation_sets": [questions]}, holdout={"rows": 0})
    seed.read(context)
    holdout.split_off(context)
    found = {row["messages"][0]["content"]: row["reason"] for row in rows_of(context, "seed/ingested")}
    assert found[SECOND_TURN] == "contamination_evaluation: exact"
    assert sum(reason is not None for reason in found.values()) == 1
    assert context.run.manifest(context.layout.evaluation_sets).count("ok") == 160
    assert "2 of 162 rows cannot be read" in capsys.readouterr().err


def test_an_evaluation_file_without_a_usable_row_is_refused_by_name(tmp_path: Path, ray_local: None) -> None:
    (tmp_path / "sets").mkdir()
    write(tmp_path / "sets" / "good.jsonl", [{"question": "q"}])
    write(tmp_path / "sets" / "bad.jsonl", [{"answers": 1}])
    context = context_for(tmp_path, "none/seed", filter={"evaluation_sets": [str(tmp_path / "sets")]})
    with pytest.raises(InputError, match=r"filter\.evaluation_sets .*bad\.jsonl: no row can be used \(malformed: bad"):
        decontaminate.read_evaluation_sets(context)
    assert context.run.done(context.layout.evaluation_sets) is None
