"""Every documented format becomes conversations; what cannot be represented says why."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.errors import InputError
from tapir_ray.sources import (
    Malformed,
    Unreadable,
    Unsupported,
    list_files,
    parse,
    parse_evaluation,
    read_raw,
)

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
        {"instruction": "x", "output": 5},
        {"instruction": "x", "output": ["a"]},
        {"instruction": "x", "input": 5, "output": "a"},
        {"instruction": "x", "system": 5, "output": "a"},
        {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": ["user"], "content": "x"}]},
        json.JSONDecodeError("bad", "{", 0),
    ],
)
def test_malformed_rows(row: object) -> None:
    with pytest.raises(Malformed):
        parse(row)


def test_a_row_without_the_columns_of_the_given_format_says_which() -> None:
    with pytest.raises(Malformed, match="no column prompt, question, query or text"):
        parse({"instruction": "x"}, format="prompt")
    with pytest.raises(Malformed, match="messages is not a list"):
        parse({"instruction": "x"}, format="messages")


def test_a_blank_response_is_none() -> None:
    assert parse({"instruction": "x", "output": " \n"})[0].response is None
    assert parse({"messages": [USER, {"role": "assistant", "content": ""}]})[0].response is None


def test_the_column_system_is_the_system_message() -> None:
    system = {"role": "system", "content": "Be brief."}
    for row in (
        {"system": "Be brief.", "instruction": "q", "output": "a"},
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    ):
        (one,) = parse(row)
        assert (one.messages, one.response, one.meta) == ([system, USER], "a", {})
    (own,) = parse({"system": "Be brief.", "messages": [{"role": "system", "content": "own"}, USER]})
    assert own.messages == [{"role": "system", "content": "own"}, USER]
    assert parse({"system": "", "prompt": "q"})[0].messages == [USER]


TURNS = st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=8)


@given(TURNS.filter(lambda roles: "user" in roles))
def test_every_turn_of_a_conversation_is_used_once(roles: list[str]) -> None:
    turns = [{"role": role, "content": f"{role} {at}"} for at, role in enumerate(roles)]
    rows = parse({"messages": turns}, turns="all")
    asked = roles.index("user")
    answers = [turn["content"] for turn in turns[asked:] if turn["role"] == "assistant"]
    last_answer = max((at for at, role in enumerate(roles) if role == "assistant"), default=-1)
    is_open = "user" in roles[last_answer + 1 :]
    assert [row.response for row in rows] == [*answers, *([None] if is_open else [])]
    assert all(row.messages == turns[: len(row.messages)] for row in rows)
    assert parse({"messages": turns}) == rows[-1:]


def test_an_evaluation_row_gives_what_must_not_be_trained_on() -> None:
    question = {"question_id": 81, "category": "writing", "turns": ["First.", "Second."]}
    asked = [{"role": "user", "content": "First."}], [{"role": "user", "content": "Second."}]
    assert [one.messages for one in parse_evaluation(question)] == list(asked)
    assert parse_evaluation({"instruction": "q", "output": 5})[0].messages == [USER]
    for turns in ([], [" "], [{"role": "user"}], "text"):
        with pytest.raises(Malformed):
            parse_evaluation({"turns": turns})


def test_mt_bench_is_read_whole(data_folder: Path) -> None:
    rows = [row for _, row in read_raw(str(data_folder / "eval/mt_bench_questions.jsonl"))]
    assert len(rows) == 80
    assert sum(len(parse_evaluation(row)) for row in rows) == 160


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
    (tmp_path / "_manifest.json").write_text("{}")
    files = list_files(str(tmp_path), "seed_data.path")
    assert [Path(file).name for file in files] == ["a.jsonl", "b.json", "c.parquet"]
    places = [place for file in files for place, _ in read_raw(file)]
    assert places[3] == "a.jsonl:4"
    assert len(places) == 10


def test_saved_hf_dataset(tmp_path: Path) -> None:
    import datasets

    folder = str(tmp_path / "saved")
    datasets.Dataset.from_list([{"instruction": "i", "output": "o"}]).save_to_disk(folder)
    assert list_files(folder, "seed_data.path") == [folder]
    assert [row["instruction"] for _, row in read_raw(folder)] == ["i"]


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "/no/such/folder", "elsewhere/alpaca.jsonl", "data/alpaca", "./alpaca", "a/b/c", "a b/c"]
)
def test_missing_input_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"filter.evaluation_sets {name}"):
        list_files(name, "filter.evaluation_sets")


@pytest.mark.parametrize("name", ["tatsu-lab/alpaca", "teknium/OpenHermes-2.5"])
def test_a_hub_id_is_left_to_the_hub(name: str) -> None:
    assert list_files(name, "seed_data.path") == [name]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("object.json", b'{"instruction": "i"}', "object.json"),
        ("cut.json", b'[{"instruction": "i"},\n{"instruc', "cut.json:2"),
        ("empty.json", b"", "empty.json:1"),
        ("no.parquet", b"PAR1 or not", "no.parquet"),
    ],
)
def test_a_broken_file_says_so_in_place_of_a_row(tmp_path: Path, name: str, content: bytes, place: str) -> None:
    (tmp_path / name).write_bytes(content)
    ((found, row),) = read_raw(str(tmp_path / name))
    assert found == place
    assert isinstance(row, Unreadable)
    with pytest.raises(Unreadable):
        parse(row)


def test_a_line_that_is_no_text_spoils_no_other(tmp_path: Path) -> None:
    lines = [b'{"instruction": "\\ud800"}', b'{"instruction": "\xff"}', b'{"instruction": "\xed\xa0\x80"}', b"[" * 9000]
    good = '\ufeff{"instruction": "\\ud83d\\ude00 \u2028 é", "output": "o"}'.encode()
    (tmp_path / "a.jsonl").write_bytes(b"\r\n".join([good, *lines, good.lstrip(b"\xef\xbb\xbf")]))
    rows = list(read_raw(str(tmp_path / "a.jsonl")))
    assert [place for place, _ in rows] == [f"a.jsonl:{number}" for number in range(1, 7)]
    assert rows[0][1] == rows[5][1] == {"instruction": "😀 \u2028 é", "output": "o"}
    for _, row in rows[1:5]:
        with pytest.raises(Malformed, match="not valid JSON"):
            parse(row)
