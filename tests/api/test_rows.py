"""Rows of a program: every kind of object gives the same table, and rows that cannot be read are refused by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pytest

from tapir_ray.api.regenerate import store
from tapir_ray.api.rows import arrow_of, conversations
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError

ROWS = [{"instruction": "Add 1 and 2.", "output": "3"}, {"instruction": "Name a colour.", "output": "Red"}]


def file(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize(
    "given",
    [
        lambda _: ROWS,
        lambda _: iter(ROWS),
        lambda _: pa.Table.from_pylist(ROWS),
        lambda _: pd.DataFrame(ROWS),
        lambda _: datasets.Dataset.from_list(ROWS),
        lambda _: datasets.Dataset.from_list([*ROWS, *ROWS]).select([0, 3]),
        file,
        lambda folder: str(file(folder)),
    ],
    ids=["list", "iterator", "arrow", "pandas", "hf", "hf selected", "path", "text"],
)
def test_every_kind_of_rows_gives_the_same_table(tmp_path: Path, given: Any) -> None:
    assert arrow_of(given(tmp_path)).to_pylist() == ROWS


def test_rows_of_ray_are_read(ray_local: None) -> None:
    import ray.data

    assert sorted(arrow_of(ray.data.from_items(ROWS)).to_pylist(), key=str) == ROWS


def test_a_row_may_lack_a_key_of_another() -> None:
    assert arrow_of([{"a": 1}, {"b": "x"}]).to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (3, "rows are a int: give a path, a list of dicts"),
        ({"instruction": "x"}, "rows are a dict"),
        (["x"], "row 1 is a str"),
        ([{"a": 1}, {"a": "x"}], "values of several types"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), "one split"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(rows: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        arrow_of(rows)


def test_conversations_keep_the_order_and_refuse_a_row_by_its_number() -> None:
    found = conversations(pa.Table.from_pylist(ROWS))
    assert [row["response"] for row in found] == ["3", "Red"]
    assert found[0]["messages"] == [{"role": "user", "content": "Add 1 and 2."}]
    with pytest.raises(InputError, match="row 2"):
        conversations(pa.Table.from_pylist([*ROWS[:1], {"instruction": None, "output": "3"}]))


def test_a_dataset_is_stored_once_and_another_one_is_refused(tmp_path: Path) -> None:
    folder = Storage.at(str(tmp_path / "run-input"))
    store(datasets.Dataset.from_list(ROWS), folder)
    before = {file.name: file.stat().st_mtime_ns for file in Path(folder.root).iterdir()}
    store(pa.Table.from_pylist(ROWS), folder)
    assert {file.name: file.stat().st_mtime_ns for file in Path(folder.root).iterdir()} == before
    with pytest.raises(InputError, match="rows of another dataset: use another run_dir"):
        store(ROWS[:1], folder)
    with pytest.raises(InputError, match="no rows"):
        store([], Storage.at(str(tmp_path / "empty")))


def test_a_store_that_was_killed_is_written_again(tmp_path: Path) -> None:
    folder = Storage.at(str(tmp_path / "run-input"))
    folder.write_text("rows.parquet", "torn")
    store(ROWS, folder)
    assert arrow_of(folder.uri).to_pylist() == ROWS
