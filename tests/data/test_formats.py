"""Every documented format becomes conversations; rows that cannot be represented give the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.data.formats import Malformed, Unsupported, parse, parse_evaluation
from tapir_ray.data.readers import read_raw

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


def test_sharegpt_roles_are_mapped() -> None:
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
def test_malformed_rows_are_refused(row: object) -> None:
    with pytest.raises(Malformed):
        parse(row)


def test_a_row_without_the_columns_of_its_format_names_them() -> None:
    with pytest.raises(Malformed, match="no column prompt, question, query or text"):
        parse({"instruction": "x"}, format="prompt")
    with pytest.raises(Malformed, match="messages is not a list"):
        parse({"instruction": "x"}, format="messages")


def test_a_blank_response_counts_as_none() -> None:
    assert parse({"instruction": "x", "output": " \n"})[0].response is None
    assert parse({"messages": [USER, {"role": "assistant", "content": ""}]})[0].response is None


def test_the_system_column_becomes_the_system_message() -> None:
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


def test_an_evaluation_row_gives_all_its_user_turns() -> None:
    question = {"question_id": 81, "category": "writing", "turns": ["First.", "Second."]}
    asked = [{"role": "user", "content": "First."}], [{"role": "user", "content": "Second."}]
    assert [one.messages for one in parse_evaluation(question)] == list(asked)
    assert parse_evaluation({"instruction": "q", "output": 5})[0].messages == [USER]
    for turns in ([], [" "], [{"role": "user"}], "text"):
        with pytest.raises(Malformed):
            parse_evaluation({"turns": turns})


def test_all_turns_of_mt_bench_are_read(data_folder: Path) -> None:
    rows = [row for _, row in read_raw(str(data_folder / "eval/mt_bench_questions.jsonl"))]
    assert len(rows) == 80
    assert sum(len(parse_evaluation(row)) for row in rows) == 160


def test_tools_and_images_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="tool_calls"):
        parse({"messages": [USER, {"role": "tool", "content": "x"}]})
    with pytest.raises(Unsupported, match="not_text"):
        parse({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})
