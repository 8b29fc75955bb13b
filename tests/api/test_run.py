"""A run as an object: its tables in four forms, its cost and its student, and errors that say what there is instead."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

import tapir_ray as tapir
from tapir_ray.config import parse
from tapir_ray.data.schemas import INSTRUCTIONS, SCORED
from tapir_ray.run.run import Run as StoredRun

ROWS = [
    {"instruction_id": str(n), "messages": [{"role": "user", "content": f"q{n}"}], "task": "Math", "difficulty": n / 2,
     "status": "ok"}
    for n in range(3)
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> tapir.Run:
    """A run of two rounds with one finished table, and one that is not finished."""
    stored = StoredRun.open(
        parse({"name": "a", "seed_data": {"path": "rows.jsonl"}, "student": {"create": {}, "max_model_len": 256},
               "train": {"sequence_length": 256}, "curriculum": {"rounds": 2}}),
        str(tmp_path / "run"),
    )  # fmt: skip
    stored.write_rows("rounds/01/scored", pa.Table.from_pylist(ROWS, schema=SCORED))
    stored.write_rows("seed/instructions", pa.Table.from_pylist(ROWS, schema=INSTRUCTIONS))
    stored.write_text("rounds/02/scored/rows-00000.parquet", "torn")
    return tapir.Run.open(stored.uri)


def test_a_table_comes_as_arrow_pandas_and_hugging_face(run: tapir.Run) -> None:
    table = run.table("scored", round=1)
    assert len(table) == 3 and table.path == "rounds/01/scored" and "difficulty" in table.columns
    assert table.to_arrow(["difficulty"]).to_pydict() == {"difficulty": [0.0, 0.5, 1.0]}
    assert list(table.to_pandas()["task"]) == ["Math"] * 3
    assert table.to_hf()[2]["messages"][0]["content"] == "q2"
    assert run.table("rounds/01/scored").to_arrow() == table.to_arrow()
    assert run.table("instructions").to_arrow(["task"]).num_rows == 3


def test_a_table_comes_as_a_ray_dataset(run: tapir.Run, ray_local: None) -> None:
    rows = run.table("scored", round=1).to_ray(["difficulty"]).take_all()
    assert sorted(row["difficulty"] for row in rows) == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("name", "round_number", "problem"),
    [
        ("scored", None, "give round, 1 to 2"),
        ("scored", 2, "no finished table scored of round 2; its finished tables are .*rounds/01/scored"),
        ("scored", 3, "round 3 is not a round"),
        ("scord", 1, "scord is not a table of this run: its tables are read,"),
        ("instructions", 1, "leave round out"),
        ("rounds/01/scored", 1, "round has no effect"),
        ("dataset", None, "dataset is not a table"),
    ],
)
def test_a_table_that_is_not_there_is_refused(
    run: tapir.Run, name: str, round_number: int | None, problem: str
) -> None:
    with pytest.raises(tapir.InputError, match=problem):
        run.table(name, round=round_number)


def test_a_run_without_an_end_has_tables_and_no_student(run: tapir.Run) -> None:
    assert run.tables == ["seed/instructions", "rounds/01/scored"]
    assert run.cost == 0.0 and run.config.name == "a" and run.status["status"] == "not started"
    with pytest.raises(tapir.InputError, match=r"no summary\.json yet"):
        _ = run.student


def test_the_summary_names_the_student(run: tapir.Run) -> None:
    StoredRun.at(run.uri).write_json("summary.json", {"status": "done", "student": "checkpoints/02"})
    assert run.student == "checkpoints/02" and run.summary["status"] == "done"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tapir.InputError, match=r"holds no run \(no config.yaml\)"):
        tapir.Run.open(tmp_path)
