"""Turns of recorded conversations in all their usual shapes; rows that cannot be represented give the reason."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.data.chat_turns import Malformed, Unsupported, read_turns
from tapir_ray.data.formats import parse
from tests.data.test_column_reading import ANSWER, USER, case, one

NEXT = {"role": "user", "content": "q2"}
LAST = {"role": "assistant", "content": "a2"}


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0}, {"weight": 0.0}, {"weight": False}, {"train": False}, {"train_on_turn": False}, {"loss": False},
        {"train": 0}, {"loss": 0.0}, {"loss_mask": 0}, {"trainable": False}, {"masked": True}, {"masked": 1},
    ],
)  # fmt: skip
@pytest.mark.parametrize("turns", ["last", "all"])
def test_an_answer_of_weight_0_is_context_and_in_no_loss(mark: dict[str, Any], turns: str) -> None:
    (found,) = parse({"messages": [USER, {**ANSWER, **mark}, NEXT, {**LAST, "weight": 1}]}, turns=turns)
    assert (found.messages, found.response, found.masked_turns) == ([USER, ANSWER, NEXT], "a2", (1,))
    with pytest.raises(Unsupported, match="weight 0"):
        parse({"messages": [USER, {**ANSWER, **mark}]}, turns=turns)


def test_the_shared_case_of_weight_0_is_read() -> None:
    first, second = case("09-weight-0")
    assert one(first).response == "No: 91 = 7 x 13."
    assert one(first, turns="all").masked_turns == (1,)
    with pytest.raises(Unsupported):
        parse(second)


@pytest.mark.parametrize(
    "mark",
    [{"train": "false"}, {"loss": 0.5}, {"loss_mask": [1, 0]}, {"train_detail": [{"begin_offset": 0, "train": False}]}],
)
def test_an_unsupported_mark_of_the_loss_filters_the_row(mark: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=next(iter(mark))):
        parse({"messages": [USER, {**ANSWER, **mark}]})
    assert one({"messages": [{**USER, **mark}, {**ANSWER, "masked": False, "train": None}]}).response == "a"


def test_turns_after_the_last_answer_in_the_loss_are_kept() -> None:
    found = one({"messages": [USER, ANSWER, NEXT, {**LAST, "weight": 0}]})
    assert (found.messages, found.response) == ([USER], "a")
    assert [turn["content"] for turn in found.meta["later_turns"]] == ["q2", "a2"]


def test_a_fractional_weight_does_not_count_as_1() -> None:
    for weight in (0.5, 2, "0"):
        with pytest.raises(Unsupported, match="weight"):
            parse({"messages": [USER, {**ANSWER, "weight": weight}]})
    assert one({"messages": [{**USER, "weight": 0.5}, {**ANSWER, "weight": None}]}).response == "a"


@pytest.mark.parametrize("content", ["", "Let me look.", None])
@pytest.mark.parametrize("call", ["function_call", "tool_calls"])
def test_tool_calls_are_unsupported(content: str | None, call: str) -> None:
    with pytest.raises(Unsupported, match="tool_calls"):
        parse({"messages": [USER, {"role": "assistant", "content": content, call: {"name": "f"}}]})
    for row in case("10-function_call"):
        with pytest.raises(Unsupported, match="tool_calls"):
            parse(row)


@pytest.mark.parametrize("role", ["tool", "Function", "observation", "function_call", "tool_response", "ipython"])
def test_turns_of_tools_are_unsupported(role: str) -> None:
    with pytest.raises(Unsupported, match="tool_calls"):
        read_turns([USER, {"role": role, "content": "x"}], "messages")


@pytest.mark.parametrize(
    ("names", "role"),
    [
        (("user", "human", "Human", "USER", "prompter"), "user"),
        (("assistant", "gpt", "model", "bing", "chatgpt", "Assistant", "bot"), "assistant"),
        (("system", "developer", "System"), "system"),
    ],
)
def test_role_names_are_mapped_to_the_protocols(names: tuple[str, ...], role: str) -> None:
    for name in names:
        for turn in ({"role": name, "content": "x"}, {"from": name, "value": "x"}, {"speaker": name, "text": "x"}):
            assert [found.message for found in read_turns([turn], "t")] == [{"role": role, "content": "x"}]
    if role == "system":
        assert one(case("11-developer-role")[0]).messages[0]["role"] == "system"


def test_text_parts_are_joined_and_other_parts_are_unsupported() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": " 2?", "image_url": None}, "Say."]
    (turn,) = read_turns([{"role": "user", "content": parts}], "messages")
    assert turn.content == "What is 2?\nSay."
    thought = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]
    (turn,) = read_turns([{"role": "assistant", "content": thought}], "messages")
    assert (turn.content, turn.reasoning) == ("a", "hm")
    for kind, reason in (("image_url", "not_text"), ("input_audio", "not_text"), ("tool_use", "tool_calls")):
        with pytest.raises(Unsupported, match=reason):
            read_turns([{"role": "user", "content": [{"type": kind}]}], "messages")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_the_thoughts_of_an_answer_are_its_reasoning(key: str) -> None:
    found = one({"messages": [USER, {**ANSWER, key: "hm"}]})
    assert (found.response, found.reasoning, found.meta) == ("a", "hm", {})
    found = one({"messages": [USER, {"role": "assistant", "content": "<think>hm</think>\n\na", key: "hm"}]})
    assert (found.response, found.reasoning) == ("a", "hm")


def test_thoughts_are_split_from_every_answer_and_unclosed_ones_are_not_trained_on() -> None:
    thinks = {"role": "assistant", "content": "<think>\nhm\n</think>\n\na"}
    found = one({"messages": [USER, thinks, NEXT, LAST]})
    assert found.messages == [USER, ANSWER, NEXT]
    assert found.meta == {"turn_fields": [{"turn": 1, "reasoning": "hm"}]}
    for row in (
        {"messages": [USER, {"role": "assistant", "content": "<think>hm"}]},
        {"prompt": "q", "response": "<think>h"},
    ):
        with pytest.raises(Unsupported, match="unfinished_thinking"):
            parse(row)


def test_other_fields_of_turns_are_kept() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "No.", "audio": None}
    found = one({"messages": [{**USER, "name": "Ann"}, refused]})
    assert (found.messages, found.response) == ([USER], None)
    assert found.meta == {"turn_fields": [{"turn": 0, "name": "Ann"}, {"turn": 1, "refusal": "No."}]}


@pytest.mark.parametrize(
    "turns", [[{}], [5], [{"role": "user"}], [{"role": "user", "content": 5}], [{"x": "y"}], ["", "a"]]
)
def test_an_invalid_turn_is_malformed(turns: list[Any]) -> None:
    with pytest.raises(Malformed):
        read_turns(turns, "messages")


def test_a_turn_with_two_contents_is_malformed() -> None:
    """One of them would be lost."""
    turns = [{"role": "user", "content": "q"}, {"role": "", "content": "0", "human": "a"}]
    with pytest.raises(Malformed, match="a turn of messages has both content and human: leave one of them out"):
        parse({"messages": turns})
