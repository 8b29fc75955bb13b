"""Columns of a row: each is used, equal to another, or named as unused; no text is dropped silently."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.data.columns import FALLBACK, NAMES
from tapir_ray.data.formats import Ambiguous, Conversation, Malformed, Unsupported, parse, parse_evaluation

CASES = Path(os.environ.get("TAPIR_DATA", Path(__file__).parents[3] / "shared" / "data")).parent / "cases"
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
BAD = {"role": "assistant", "content": "bad"}


def one(row: dict[str, Any], **settings: Any) -> Conversation:
    (found,) = parse(row, **settings)
    return found


def asked(row: dict[str, Any], **settings: Any) -> tuple[list[str], str | None]:
    found = one(row, **settings)
    return [message["content"] for message in found.messages], found.response


def case(name: str) -> list[dict[str, Any]]:
    path = CASES / name / "seed.jsonl"
    if not path.exists():
        pytest.skip("the shared cases are not here")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_passage_is_part_of_the_prompt() -> None:
    row = {"instruction": "When?", "context": "In 1987.", "response": "1987.", "category": "closed_qa"}
    found = one(row)
    assert found.messages == [{"role": "user", "content": "When?\n\nIn 1987."}]
    assert (found.response, found.meta, found.unused) == ("1987.", {"category": "closed_qa"}, ("category",))
    for row in case("01-dolly-context"):
        assert row["context"] in one(row).messages[0]["content"]


def test_history_is_earlier_turns() -> None:
    row = {"instruction": "And 8?", "output": "24", "system": "A till.", "history": [["Two?", "6"], ["Five?", "15"]]}
    assert asked(row) == (["A till.", "Two?", "6", "Five?", "15", "And 8?"], "24")
    assert [found.response for found in parse(row, turns="all")] == ["6", "15", "24"]
    assert asked({"instruction": "q", "output": "a", "history": [USER, ANSWER]}) == (["q", "a", "q"], "a")
    assert len(one(case("03-alpaca-history")[0]).messages) == 6
    bare = {"instruction": "q", "output": "a", "history": ["Two?", "6"]}
    assert [turn["role"] for turn in one(bare).messages] == ["user", "assistant", "user"]
    with pytest.raises(Malformed, match="history has 3 texts"):
        parse({**bare, "history": ["Two?", "6", "Five?"]})
    with pytest.raises(Malformed, match=r"columns: \{context: history\}"):
        parse({"instruction": "q", "output": "a", "history": "Two? 6"})


@pytest.mark.parametrize(
    ("row", "messages", "response"),
    [
        ({"prompt": "q", "completion": " a"}, ["q"], " a"),
        ({"question": "q", "answer": "#### 4"}, ["q"], "#### 4"),
        ({"inputs": "q", "targets": "a"}, ["q"], "a"),
        ({"input": "q", "target": "a"}, ["q"], "a"),
        ({"problem": "q", "solution": "a"}, ["q"], "a"),
        ({"query": "q", "response": "a"}, ["q"], "a"),
        ({"instruction": " ", "input": "q", "output": "a"}, ["q"], "a"),
        ({"user": "q", "assistant": "a", "system": "s"}, ["s", "q"], "a"),
        ({"Question": "q", "Response": "a", "System Prompt": "s"}, ["s", "q"], "a"),
        ({"question": "q", "passage": "p", "answer": "a"}, ["q\n\np"], "a"),
        ({"question": "q", "contexts": ["p1", "p2"], "answer": "a"}, ["q\n\np1\n\np2"], "a"),
        ({"question": "q", "context": "c", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}}, ["q\n\nc"], "a"),
        ({"question": "q", "choices": ["x", "y"], "answer": 1}, ["q\n\nA. x\nB. y"], "B. y"),
        ({"question": "q", "choices": {"text": ["x"], "label": ["1"]}, "answerKey": "1"}, ["q\n\n1. x"], "1"),
        ({"question": "q", "options": {"A": "x", "B": None}, "answer": "A"}, ["q\n\nA. x"], "A"),
        ({"question": "q", "options": ["A) x", "B) y"], "correct": "A"}, ["q\n\nA) x\nB) y"], "A"),
        ({"prompt": [USER], "completion": [ANSWER]}, ["q"], "a"),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [BAD]}, ["q"], "a"),
        ({"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, BAD]}, ["q"], "a"),
        ({"chosen": [USER, ANSWER], "rejected": [USER, BAD]}, ["q"], "a"),
        ({"prompt": "q", "messages": [USER, ANSWER]}, ["q"], "a"),
        ({"messages": [USER], "response": "a"}, ["q"], "a"),
        ({"messages": None, "instruction": "q", "context": None, "output": "a"}, ["q"], "a"),
        ({"conversation": [{"human": "q", "assistant": "a"}, {"human": "r", "assistant": "b"}]}, ["q", "a", "r"], "b"),
        ({"conversation": [{"system": "s", "input": "q", "output": "a"}]}, ["s", "q"], "a"),
        ({"conversations": ["q", "a"]}, ["q"], "a"),
        ({"turns": [{"speaker": "User", "text": "q"}, {"speaker": "Model", "text": "a"}]}, ["q"], "a"),
        ({"problem": "q", "solution": "a", "answer": 4}, ["q"], "a"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_columns_of_the_usual_formats_are_read(row: dict[str, Any], messages: list[str], response: str) -> None:
    assert asked(row) == (messages, response)
    assert set(one(row).unused) <= {"rejected"}


def test_rejected_answers_and_unused_columns_are_kept_and_named() -> None:
    found = one({"prompt": "q", "chosen": "a", "rejected": "b", "hint": "h", "score": 3, "tags": ["x"], "none": None})
    assert found.meta == {"rejected": "b", "hint": "h", "score": 3, "tags": ["x"], "none": None}
    assert found.unused == ("rejected", "hint", "tags")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "q", "question": "q2", "response": "a"}, "`prompt` and `question` could both be the prompt"),
        ({"prompt": "q", "input": "q2", "response": "a"}, "`prompt` and `input` could both be the prompt"),
        ({"prompt": "q", "output": "a", "answer": "b"}, "`output` and `answer` could both be the answer"),
        ({"problem": "q", "solution": "a", "answer": "b"}, "could both be the answer"),
        ({"messages": [USER, ANSWER], "prompt": "other"}, "`messages` and `prompt` could both be the prompt"),
        ({"messages": [USER, ANSWER], "response": "other"}, "`messages` and `response` could both be the answer"),
        ({"messages": [USER, ANSWER], "conversations": [USER, BAD]}, "could both be the conversation"),
        ({"prompt": "other", "chosen": [USER, ANSWER]}, "`prompt` and `chosen` could both be the prompt"),
        ({"system": "s", "system_prompt": "t", "prompt": "q"}, "could both be the system prompt"),
    ],
    ids=str,
)
def test_two_columns_for_one_field_are_ambiguous(row: dict[str, Any], words: str) -> None:
    with pytest.raises(Ambiguous, match=words) as error:
        parse(row)
    assert "seed_data.columns: {" in str(error.value)


def test_equal_columns_and_a_rendered_template_are_not_ambiguous() -> None:
    assert asked({"prompt": "q", "question": " q ", "output": "a", "answer": "a"}) == (["q"], "a")
    rendered = one({"instruction": "q", "input": "i", "output": "a", "text": "### q\n### i\n### a"})
    assert (rendered.messages[0]["content"], rendered.unused) == ("q\n\ni", ("text",))


def test_a_user_maps_columns() -> None:
    row = {"q1": "q", "para": "p", "gold": "a", "why": "w", "x": "y", "prompt": "other"}
    mapped = {"prompt": ["q1"], "context": ["para"], "response": ["gold"], "reasoning": ["why"], "meta": ["x"]}
    found = one(row, columns=mapped)
    assert (found.messages[0]["content"], found.response, found.reasoning) == ("q\n\np", "a", "w")
    assert (found.meta, found.unused) == ({"x": "y", "prompt": "other"}, ("prompt",))
    assert asked({"messages": [USER, ANSWER], "answer": "b"}, columns={"messages": ["messages"]}) == (["q"], "a")
    assert asked({"instruction": "q", "input": "i", "output": "a"}, columns={"context": []}) == (["q"], "a")
    assert asked({"a": "q", "b": "r", "output": "x"}, columns={"prompt": ["b", "a"]}) == (["r\n\nq"], "x")
    with pytest.raises(Malformed, match="no column q2"):
        parse(row, columns={"prompt": ["q2"]})


def test_the_task_column_is_not_part_of_the_prompt() -> None:
    found = one({"instruction": "q", "context": "Math", "output": "a"}, columns={"meta": ["context"]})
    assert (found.messages, found.meta, found.unused) == ([USER], {"context": "Math"}, ())


@pytest.mark.parametrize("name", ["reasoning", "thinking", "reasoning_content", "rationale", "chain_of_thought"])
def test_thoughts_in_a_column_are_not_the_answer(name: str) -> None:
    found = one({"question": "q", name: "hm", "answer": "a"})
    assert (found.response, found.reasoning, found.unused) == ("a", "hm", ())


@pytest.mark.parametrize(
    "row",
    [
        {
            "image": "x.jpg",
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a"}],
        },
        {"question": "What?", "image": {"bytes": b"x", "path": None}, "answer": "a"},
        {"question": "What?", "images": ["x.jpg"], "answer": "a"},
    ],
)
def test_questions_about_an_image_are_unsupported(row: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="not_text"):
        parse(row)


def test_turns_stored_as_json_are_read() -> None:
    assert asked({"messages": json.dumps([USER, ANSWER]), "images": []}) == (["q"], "a")
    assert asked({"instruction": "q", "output": "a", "history": '[["b", "c"]]'}) == (["b", "c", "q"], "a")
    with pytest.raises(Malformed, match="not a list of turns"):
        parse({"messages": "[broken"})


def test_a_completion_labelled_undesirable_is_not_trained_on() -> None:
    with pytest.raises(Unsupported, match="undesirable"):
        parse({"prompt": "q", "completion": "a", "label": False})
    assert one({"prompt": "q", "completion": "a", "label": True}).response == "a"


def test_an_evaluation_row_gives_its_passage_and_each_of_its_prompts() -> None:
    row = {"question": "q", "passage": "p", "answer": "a", "rationale": "r"}
    assert [found.messages for found in parse_evaluation(row)] == [[{"role": "user", "content": "q\n\np"}]]
    both = parse_evaluation({"prompt": "q", "question": "q2", "answer": 5})
    assert [found.messages[0]["content"] for found in both] == ["q", "q2"]
    weighed = {"messages": [USER, {**ANSWER, "weight": 0}]}
    assert [found.messages for found in parse_evaluation(weighed)] == [[USER]]


def test_the_table_of_the_docs_matches_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text()
    rows = {line.split("|")[1].strip().strip("`"): line for line in page.splitlines() if line.startswith("| `")}
    for table in (NAMES, FALLBACK):
        for role, names in table.items():
            for name in names:
                assert f"`{name}`" in rows[role]
