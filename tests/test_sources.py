"""Every documented format becomes conversations; what cannot be represented says why."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapir_ray.errors import InputError
from tapir_ray.sources import Malformed, Unsupported, list_files, parse, read_raw

USER = {"role": "user", "content": "q"}


def test_alpaca_joins_instruction_and_input() -> None:
    (one,) = parse({"instruction": "Add.", "input": "1 2", "output": "3", "category": "math"})
    assert one.messages == [{"role": "user", "content": "Add.\n\n1 2"}]
    assert (one.response, one.meta) == ("3", {"category": "math"})


def test_messages_keep_system_and_context() -> None:
    turns = [
        {"role": "system", "content": "s"},
        USER,
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "a2"},
    ]
    (last,) = parse({"messages": turns})
    assert (last.messages, last.response) == (turns[:4], "a2")
    first, second = parse({"messages": turns}, turns="all")
    assert (first.messages, first.response) == (turns[:2], "a1")
    assert second == last


def test_sharegpt_roles() -> None:
    (one,) = parse({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})
    assert (one.messages, one.response) == ([USER], "a")


def test_prompt_only_and_open_conversation_have_no_response() -> None:
    assert parse({"prompt": "q"})[0].response is None
    assert parse({"messages": [USER]})[0].response is None


@pytest.mark.parametrize(
    "row",
    [
        "text",
        {},
        {"instruction": " "},
        {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        json.JSONDecodeError("bad", "{", 0),
    ],
)
def test_malformed_rows(row: object) -> None:
    with pytest.raises(Malformed):
        parse(row)


def test_tools_and_images_are_not_flattened() -> None:
    with pytest.raises(Unsupported, match="tool_calls"):
        parse({"messages": [USER, {"role": "tool", "content": "x"}]})
    with pytest.raises(Unsupported, match="not_text"):
        parse({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})


def test_files_of_all_kinds(tmp_path: Path) -> None:
    rows = [{"instruction": f"i{n}", "output": "o"} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\nnot json\n")
    (tmp_path / "b.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    files = list_files(str(tmp_path))
    assert [Path(file).name for file in files] == ["a.jsonl", "b.json", "c.parquet"]
    places = [place for file in files for place, _ in read_raw(file)]
    assert places[3] == "a.jsonl:4"
    assert len(places) == 10


def test_saved_hf_dataset(tmp_path: Path) -> None:
    import datasets

    folder = str(tmp_path / "saved")
    datasets.Dataset.from_list([{"instruction": "i", "output": "o"}]).save_to_disk(folder)
    assert list_files(folder) == [folder]
    assert [row["instruction"] for _, row in read_raw(folder)] == ["i"]


@pytest.mark.parametrize("name", ["missing.jsonl", "/no/such/folder"])
def test_missing_input_is_named(name: str) -> None:
    with pytest.raises(InputError, match=name):
        list_files(name)
